//! Owns the order in which one worker's held requests go on: when there is news, those of a program look at it one after the
//! other, the one that came first. Must not know what the news is.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::domain::names::ProgramName;

/// Held requests of one worker, in the order in which they came, and the news that each has looked at.
#[derive(Debug, Default)]
pub struct Line {
    next: Cell<u64>,
    waiting: RefCell<BTreeMap<ProgramName, BTreeMap<u64, u64>>>,
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
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    /// A request waits, having looked at so much news.
    pub fn wait<'a>(&'a self, program: &'a ProgramName, ticket: u64, seen: u64) -> Waiting<'a> {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.contains_key(program) {
            waiting.insert(program.clone(), BTreeMap::new());
        }
        if let Some(of_program) = waiting.get_mut(program) {
            of_program.insert(ticket, seen);
        }
        Waiting { line: self, program, ticket }
    }
}

impl Waiting<'_> {
    /// Lets those go first that came earlier and have not looked at this news yet. They have been woken by it, so that
    /// this ends.
    pub async fn turn(&self, news: u64) {
        while self.is_behind(news) {
            tokio::task::yield_now().await;
        }
    }

    fn is_behind(&self, news: u64) -> bool {
        let waiting = self.line.waiting.borrow();
        let earlier = waiting.get(self.program).into_iter().flat_map(|tickets| tickets.range(..self.ticket));
        earlier.into_iter().any(|(_, seen)| *seen < news)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.line.waiting.borrow_mut();
        if let Some(of_program) = waiting.get_mut(self.program) {
            of_program.remove(&self.ticket);
            if of_program.is_empty() {
                waiting.remove(self.program);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_first_looks_at_news_first_and_other_programs_do_not_matter() {
        let (line, shop, mail) =
            (Line::default(), ProgramName::new("shop").unwrap(), ProgramName::new("mail").unwrap());
        let (first, second) = (line.ticket(), line.ticket());
        let other = line.wait(&mail, line.ticket(), 0);
        let late = line.wait(&shop, second, 1);
        let early = line.wait(&shop, first, 1);
        assert!(!late.is_behind(1) && late.is_behind(2) && !early.is_behind(2) && !other.is_behind(2));
        drop(early);
        assert!(!late.is_behind(2));
        drop((late, other));
        assert!(line.waiting.borrow().is_empty());
    }
}
