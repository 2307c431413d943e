use super::*;
use proptest::prelude::*;

fn storage<'a>() -> Storage<'a> {
    [const { MaybeUninit::uninit() }; HEADERS]
}

type Found<'a> = (Vec<(&'a str, &'a [u8])>, usize);

fn found<'a>(headers: &[Header<'a>], length: usize) -> Found<'a> {
    (headers.iter().map(|field| (field.name, field.value)).collect(), length)
}

/// What is read as plain must be what httparse reads; whether it is plain.
fn agrees_on_request(bytes: &[u8]) -> bool {
    let (mut ours, mut theirs) = (storage(), storage());
    let Some(read) = request(bytes, &mut ours) else { return false };
    let mut parsed = httparse::Request::new(&mut []);
    let length = parsed.parse_with_uninit_headers(bytes, &mut theirs).unwrap().unwrap();
    assert_eq!((Some(read.method), Some(read.target)), (parsed.method, parsed.path));
    assert_eq!(Some(u8::from(!read.http10)), parsed.version);
    assert_eq!(found(read.fields.headers, read.fields.length), found(parsed.headers, length));
    assert!(!bytes[..length].windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r'));
    true
}

fn agrees_on_response(bytes: &[u8]) -> bool {
    let (mut ours, mut theirs) = (storage(), storage());
    let Some(read) = response(bytes, &mut ours) else { return false };
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut theirs).unwrap().unwrap();
    assert_eq!((Some(read.status), Some(read.reason)), (parsed.code, parsed.reason));
    assert_eq!(Some(u8::from(!read.http10)), parsed.version);
    assert_eq!(found(read.fields.headers, read.fields.length), found(parsed.headers, length));
    true
}

const REQUEST: &str = "GET /a/b%20c?d=e HTTP/1.1\r\nHost: example.org:8080\r\nAccept: a, b;q=0.8, */*\r\n\
                       X-Long: 0123456789 abcdefghijklmnopqrstuvwxyz \u{e9}\r\nA: b\r\n\r\n";
const RESPONSE: &str = "HTTP/1.1 404 Not Found\r\nServer: s\r\nContent-Length: 1024\r\nX-A: \u{e9} \"x\" \r\n\r\n";

#[test]
fn what_nearly_all_send_is_plain() {
    for rest in ["", "x", "0123456789"] {
        assert!(agrees_on_request(format!("{REQUEST}{rest}").as_bytes()), "{rest}");
        let response = RESPONSE.replace(" \r", "\r");
        assert!(agrees_on_response(format!("{response}{rest}").as_bytes()), "{rest}");
    }
    for line in ["HTTP/1.0 200 OK", "HTTP/1.1 200 ", "HTTP/1.1 999 a  b"] {
        assert!(agrees_on_response(format!("{line}\r\n\r\n").as_bytes()), "{line}");
    }
    assert!(agrees_on_request(b"M-SEARCH * HTTP/1.0\r\n\r\n"));
}

#[test]
fn what_is_not_whole_or_not_plain_is_left_to_others() {
    for length in 0..REQUEST.len() {
        assert!(!agrees_on_request(&REQUEST.as_bytes()[..length]), "{length}");
    }
    assert!(!agrees_on_response(RESPONSE.as_bytes()));
    for field in [
        "A:b",
        "A:  b",
        "A: b ",
        "A: ",
        "A:",
        "A: b\tc",
        "A : b",
        " A: b",
        "A_B: c",
        ": b",
        "A: b\0",
        "A: b\x7f",
        "A: b\n",
        "A: b\r",
        "A: b\rC: d",
        "A: b\nC: d",
        "A",
    ] {
        assert!(!agrees_on_request(format!("GET / HTTP/1.1\r\n{field}\r\n\r\n").as_bytes()), "{field:?}");
        assert!(!agrees_on_response(format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n").as_bytes()), "{field:?}");
    }
    for line in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.2",
        "GET /",
        "/ HTTP/1.1",
        "G\tT / HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "",
    ] {
        assert!(!agrees_on_request(format!("{line}\r\nA: b\r\n\r\n").as_bytes()), "{line:?}");
    }
    for line in [
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 200",
        "HTTP/1.2 200 OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1 200 \u{e9}",
    ] {
        assert!(!agrees_on_response(format!("{line}\r\nA: b\r\n\r\n").as_bytes()), "{line:?}");
    }
}

#[test]
fn every_byte_is_told_in_every_place() {
    fn is_in<S: Set>(byte: u8, place: usize) -> bool {
        let mut block = [b'a'; BLOCK];
        block[place] = byte;
        let others = S::others(&block);
        assert!(others == 0 || others == 1 << place, "{byte} at {place}");
        let (found, all) = (find::<S>(&block[..=place]), find::<S>(&[block, block].concat()));
        assert_eq!((found, all), if others == 0 { (place + 1, 2 * BLOCK) } else { (place, place) });
        others == 0
    }
    for (byte, place) in (0..=u8::MAX).flat_map(|byte| (0..BLOCK).map(move |place| (byte, place))) {
        assert_eq!(is_in::<InNames>(byte, place), byte.is_ascii_alphanumeric() || byte == b'-');
        assert_eq!(is_in::<InValues>(byte, place), !byte.is_ascii_control());
        assert_eq!(is_in::<InTargets>(byte, place), byte.is_ascii_graphic());
    }
}

#[test]
fn more_fields_than_there_is_room_for_are_left_to_others() {
    for (count, plain) in [(FIELDS, true), (FIELDS + 1, false)] {
        let head = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(count));
        assert_eq!(agrees_on_request(head.as_bytes()), plain, "{count}");
    }
}

proptest! {
    /// Heads with some bytes changed, put in or taken away.
    #[test]
    fn what_is_read_is_what_httparse_reads(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..3, prop_oneof![
            any::<u8>(), prop::sample::select(&b"\r\n\t :_-/a0\x7f\0\x80"[..])
        ]), 0..4),
    ) {
        for (head, is_request) in [(REQUEST, true), (RESPONSE, false)] {
            let mut bytes = head.as_bytes().to_vec();
            for (place, what, byte) in &changes {
                let at = place.index(bytes.len());
                match what {
                    0 => bytes[at] = *byte,
                    1 => bytes.insert(at, *byte),
                    _ => drop(bytes.remove(at)),
                }
            }
            if is_request { agrees_on_request(&bytes) } else { agrees_on_response(&bytes) };
        }
    }
}
