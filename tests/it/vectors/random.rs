//! Owns the vectors' messages, changed at random, on real sockets: whatever comes in, what goes out on the other side has
//! one meaning. Must not know what each should come to.

use std::cell::Cell;
use std::time::Duration;

use proptest::prelude::*;

use super::changes::{self, Change, change, runner};
use super::client::Client;
use super::format::{Script, Then};
use super::run::Ground;
use super::strict::{Read, shown};
use super::upstream::What;

const CASES: u32 = 400;
/// A client that has heard nothing for so long sends no more. Nothing rests on it but how long the test takes.
const MOMENT: Duration = Duration::from_millis(15);
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn changed(message: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = message.to_vec();
    changes.iter().for_each(|change| change.apply(&mut bytes));
    bytes
}

/// The upstream reads strictly: what it saw is either a request, or a part of one that its client did not send whole.
pub fn requests(ground: &Ground) {
    let given = (prop::sample::select(changes::requests()), prop::collection::vec(change(), 0..4));
    let forwarded = Cell::new(0);
    let ran = runner(CASES).run(&given, |(request, changes)| {
        ground.upstream.tell(&[]);
        let mut client = Client::connect(ground.address);
        client.send(&[&changed(&request, &changes), LAST].concat());
        client.listen(MOMENT);
        client.send_no_more();
        let ended = client.rest().map(|_| ());
        prop_assert!(ended.is_ok(), "the connection does not end: {:?}", ended);
        let probed = ground.probe(&mut Client::connect(ground.address));
        prop_assert!(probed.is_ok(), "{:?}", probed);
        let seen = ground.upstream.seen().map_err(TestCaseError::fail)?;
        for one in seen {
            match one.what {
                What::Bad(why) => return Err(TestCaseError::fail(format!("the upstream saw {why}"))),
                What::Request(_) => forwarded.set(forwarded.get() + 1),
                What::Part(_) | What::Probe => {}
            }
        }
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
    let forwarded = forwarded.get();
    assert!(forwarded > CASES / 8, "only {forwarded} requests went on: nothing was shown");
}

/// The client reads strictly: what it gets is an answer, or a part of one that the connection's end shows to be one, and
/// what was left over of it is in no other answer.
pub fn answers(ground: &Ground) {
    let given = (prop::sample::select(changes::answers()), prop::collection::vec(change(), 0..4));
    let passed = Cell::new(0);
    let ran = runner(CASES).run(&given, |(answer, changes)| {
        let bytes = changed(&answer, &changes);
        ground.upstream.tell(&[Script { bytes: bytes.clone(), then: Then::Closes, early: false }]);
        let mut client = Client::connect(ground.address);
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
        let whole = loop {
            match client.answer("GET").map_err(TestCaseError::fail)? {
                Read::Whole(message, _) if message.status() < 200 => {}
                Read::Whole(message, _) => {
                    prop_assert_eq!(message.field("connection"), None, "{}", shown(&bytes));
                    passed.set(passed.get() + u32::from(message.status() != 502));
                    break true;
                }
                Read::Body(_) | Read::Partial => break false,
                Read::Bad(why) => return Err(TestCaseError::fail(why)),
            }
        };
        let probed = if whole { ground.probe(&mut client) } else { ground.probe(&mut Client::connect(ground.address)) };
        prop_assert!(probed.is_ok(), "{:?}", probed);
        drop(client);
        ground.upstream.seen().map(|_| ()).map_err(TestCaseError::fail)
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
    let passed = passed.get();
    assert!(passed > CASES / 8, "only {passed} answers went on: nothing was shown");
}
