use super::*;

async fn seat(seats: &Rc<Seats>) -> Seat {
    let seat = seats.take();
    seat.sit().await;
    seat
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[test]
fn a_timer_is_never_early_and_wakes_its_task() {
    run(async {
        let seats = Seats::new(Arc::default());
        let ticker = tokio::task::spawn_local(tick(Rc::downgrade(&seats)));
        for _ in 0..3 {
            let one = seat(&seats).await;
            let (mut late, mut soon) = (Timer::new(&one), Timer::new(&one));
            let began = Instant::now();
            late.arm(Duration::from_secs(3600));
            soon.arm(2 * TICK);
            poll_fn(|_| if late.poll().is_ready() { Poll::Pending } else { soon.poll() }).await;
            assert!(began.elapsed() >= 2 * TICK && late.poll().is_pending());
            soon.disarm();
            assert!(soon.poll().is_pending());
            // Nobody seated: the ticker rests, and the clock stands.
        }
        drop(seats);
        ticker.await.unwrap();
    });
}

#[test]
fn a_clock_that_stood_is_looked_at_before_anything_goes_by_it() {
    run(async {
        let seats = Seats::new(Arc::default());
        let before = seats.at();
        while before.elapsed() < TICK {
            tokio::task::yield_now().await;
        }
        assert_eq!(seats.at(), before);
        let one = seat(&seats).await;
        assert!(seats.at() >= before + TICK);
        assert_eq!(one.after(Duration::ZERO), seats.tick.get() + 1);
    });
}

#[test]
fn seats_are_counted_and_who_waits_for_one_is_woken() {
    run(async {
        let seats = Seats::new(Arc::default());
        let (one, two) = (seat(&seats).await, seat(&seats).await);
        drop(one);
        let three = seat(&seats).await;
        assert_eq!((seats.count(), seats.taken.borrow().len()), (2, 2), "a free seat is taken first");
        let leaves = tokio::task::spawn_local(async move {
            tokio::task::yield_now().await;
            drop((two, three));
        });
        seats.empty().await;
        assert_eq!(seats.count(), 0);
        leaves.await.unwrap();
    });
}

#[test]
fn those_without_a_request_give_way_first_and_then_those_slow_to_tell_theirs() {
    run(async {
        let crowd = Arc::<Crowd>::default();
        let seats = Seats::new(Arc::clone(&crowd));
        let ago = |seconds| Instant::now() - Duration::from_secs(seconds);
        let kinds =
            [Waits::Not, Waits::Rest(ago(9)), Waits::Request(ago(5)), Waits::Request(ago(7)), Waits::Request(ago(1))];
        let mut taken = Vec::new();
        for waits in kinds {
            let seat = seat(&seats).await;
            seat.look(|taken| taken.waits.set(waits));
            taken.push(seat);
        }
        let ended = || taken.iter().map(Seat::gives_way).collect::<Vec<_>>();
        for (gone, due) in [(1, [0, 0, 0, 1, 0]), (1, [0, 0, 1, 1, 0]), (1, [0, 1, 1, 1, 0]), (0, [0, 1, 1, 1, 0])] {
            assert_eq!(seats.make_room(1, Duration::from_secs(2)), gone);
            assert_eq!(ended(), due.map(|one| one == 1));
        }
        taken[1].is_busy();
        assert!(!taken[1].gives_way());
        assert_eq!(crowd.open(), 5);
        drop(taken);
        assert_eq!(crowd.open(), 0);
    });
}
