//! Owns the order in which a router's held requests go on, whichever of its workers has them: when there is news, those of a
//! program look at it one after the other, the one that came first. Must not know what the news is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tokio::time::timeout_at;

use crate::domain::names::ProgramName;

/// Held requests, in the order in which they came. How many there are is bounded by whoever lets them wait.
#[derive(Debug, Default)]
pub struct Line {
    next: AtomicU64,
    waiting: Mutex<BTreeMap<ProgramName, BTreeMap<u64, Place>>>,
}

/// What is known of one that waits.
#[derive(Debug)]
struct Place {
    /// The news that it has looked at.
    seen: u64,
    /// It has heard of news, and lets others go first: rung when one of them has gone.
    turn: Option<Arc<Notify>>,
}

/// A request's wait in the line; given up by drop.
#[derive(Debug)]
pub struct Waiting<'a> {
    line: &'a Line,
    program: &'a ProgramName,
    ticket: u64,
}

impl Line {
    /// The place of a request in the line, for as long as it is held.
    pub fn ticket(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A request waits, having looked at so much news.
    pub fn wait<'a>(&'a self, program: &'a ProgramName, ticket: u64, seen: u64) -> Waiting<'a> {
        let mut waiting = self.lock();
        if !waiting.contains_key(program) {
            waiting.insert(program.clone(), BTreeMap::new());
        }
        if let Some(of_program) = waiting.get_mut(program) {
            of_program.insert(ticket, Place { seen, turn: None });
        }
        Waiting { line: self, program, ticket }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ProgramName, BTreeMap<u64, Place>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting<'_> {
    /// Lets those go first that came earlier and have not looked at this news yet, at most until `until`. They have been
    /// woken by it as well, or leave: either way this is woken.
    pub async fn turn(&self, news: u64, until: Instant) {
        while let Some(rung) = self.behind(news) {
            if timeout_at(until.into(), rung.notified()).await.is_err() {
                return;
            }
        }
    }

    /// What rings when one that goes first has gone; `None`: none does.
    fn behind(&self, news: u64) -> Option<Arc<Notify>> {
        let mut waiting = self.line.lock();
        let of_program = waiting.get_mut(self.program)?;
        if !of_program.range(..self.ticket).any(|(_, place)| place.seen < news) {
            return None;
        }
        let own = of_program.get_mut(&self.ticket)?;
        Some(own.turn.get_or_insert_default().clone())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.line.lock();
        let Some(of_program) = waiting.get_mut(self.program) else { return };
        of_program.remove(&self.ticket);
        // Of those that let others go first only the first may be free to go by this: it is in the way of the rest.
        if let Some(next) = of_program.range(self.ticket..).find_map(|(_, place)| place.turn.as_ref()) {
            next.notify_one();
        }
        if of_program.is_empty() {
            waiting.remove(self.program);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    fn program(name: &str) -> ProgramName {
        ProgramName::new(name).unwrap()
    }

    #[test]
    fn who_came_first_looks_at_news_first_and_other_programs_do_not_matter() {
        let (line, shop, mail) = (Line::default(), program("shop"), program("mail"));
        let (first, second) = (line.ticket(), line.ticket());
        let other = line.wait(&mail, line.ticket(), 0);
        let late = line.wait(&shop, second, 1);
        let early = line.wait(&shop, first, 1);
        assert!(late.behind(1).is_none() && late.behind(2).is_some());
        assert!(early.behind(2).is_none() && other.behind(2).is_none());
        drop(early);
        assert!(late.behind(2).is_none());
        drop((late, other));
        assert!(line.lock().is_empty());
    }

    #[tokio::test]
    async fn one_whose_client_leaves_wakes_the_next_that_is_in_its_turn() {
        let (line, shop, later) = (Line::default(), program("shop"), Instant::now() + Duration::from_secs(3_600));
        let tickets: Vec<u64> = (0..4).map(|_| line.ticket()).collect();
        let first = line.wait(&shop, tickets[0], 1);
        // It has looked at the news already, and is in nobody's way.
        let looked = line.wait(&shop, tickets[1], 2);
        let third = line.wait(&shop, tickets[2], 1);
        let fourth = line.wait(&shop, tickets[3], 1);
        let (mut third_turn, mut fourth_turn) = (Box::pin(third.turn(2, later)), Box::pin(fourth.turn(2, later)));
        assert!((&mut third_turn).now_or_never().is_none() && (&mut fourth_turn).now_or_never().is_none());
        drop(first);
        third_turn.await;
        assert!((&mut fourth_turn).now_or_never().is_none());
        drop(third);
        fourth_turn.await;
        drop((looked, fourth));
        assert!(line.lock().is_empty());
    }

    #[tokio::test]
    async fn nobody_waits_for_its_turn_beyond_its_time() {
        let (line, shop) = (Line::default(), program("shop"));
        let (first, second) = (line.ticket(), line.ticket());
        let (_stuck, waiting) = (line.wait(&shop, first, 1), line.wait(&shop, second, 1));
        waiting.turn(2, Instant::now()).await;
        assert!(waiting.behind(2).is_some());
    }

    #[test]
    fn held_requests_of_several_workers_go_on_in_the_order_in_which_they_came() {
        const WORKERS: u64 = 4;
        const EACH: u64 = 50;
        let (line, shop) = (Arc::new(Line::default()), Arc::new(program("shop")));
        let (news, went) = (Arc::new(Notify::new()), Arc::new(Mutex::new(Vec::new())));
        let ready = Arc::new(std::sync::Barrier::new(WORKERS as usize + 1));
        let tickets: Vec<u64> = (0..WORKERS * EACH).map(|_| line.ticket()).collect();
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let (line, shop, news, went) = (line.clone(), shop.clone(), news.clone(), went.clone());
                let own: Vec<u64> = tickets.iter().copied().filter(|ticket| ticket % WORKERS == worker).collect();
                let ready = ready.clone();
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    let later = Instant::now() + Duration::from_secs(60);
                    let (line, shop, news, went) = (&line, &shop, &news, &went);
                    let all = own.into_iter().rev().map(|ticket| async move {
                        let waiting = line.wait(shop, ticket, 1);
                        news.notified().await;
                        waiting.turn(2, later).await;
                        went.lock().unwrap().push(ticket);
                        drop(waiting);
                    });
                    let mut all = Box::pin(futures_util::future::join_all(all));
                    // All of them wait before there is news.
                    runtime.block_on(async {
                        assert!((&mut all).now_or_never().is_none());
                    });
                    ready.wait();
                    runtime.block_on(all);
                })
            })
            .collect();
        ready.wait();
        news.notify_waiters();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(*went.lock().unwrap(), tickets);
        assert!(line.lock().is_empty());
    }
}
