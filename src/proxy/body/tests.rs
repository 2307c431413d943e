use super::*;

fn decoded(input: &[u8], step: usize) -> Result<(Vec<u8>, usize, Decoder), &'static str> {
    let mut decoder = Decoder::new(Framing::Chunked);
    let (mut body, mut at) = (Vec::new(), 0);
    while at < input.len() && !decoder.is_done() {
        let end = (at + step).min(input.len());
        let piece = decoder.next(&input[at..end])?;
        assert!(piece.used > 0);
        body.extend_from_slice(&input[at + piece.used - piece.data..at + piece.used]);
        at += piece.used;
    }
    Ok((body, at, decoder))
}

#[test]
fn chunks_are_read_however_they_are_cut() {
    let input = b"5\r\nhello\r\n1;name=value\r\n!\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\n\r\nGET";
    for step in 1..input.len() {
        let (body, at, decoder) = decoded(input, step).unwrap();
        assert_eq!(body, b"hello!");
        assert_eq!(&input[at..], b"GET", "what follows is not touched");
        let mut end = Vec::new();
        decoder.write_end(&mut end);
        assert_eq!(end, b"0\r\nX-Sum: 7\r\n\r\n", "framing does not travel in trailers");
    }
}

#[test]
fn malformed_chunks_are_refused() {
    let long = format!("5;{}\r\n", "a".repeat(2000));
    let trailers = format!("0\r\n{}", "X: a\r\n".repeat(2000));
    for input in [
        "\r\n",
        "x\r\n",
        "-5\r\nhello\r\n",
        "0x5\r\nhello\r\n",
        "5 \r\nhello\r\n",
        " 5\r\nhello\r\n",
        "5\nhello\r\n",
        "5;a\nhello\r\n",
        "5\r\nhelloX\r\n",
        "5\r\nhello\n",
        "5\r\nhello\rX",
        "fffffffffffffffff\r\n",
        "10000000000000005\r\n",
        "0\r\nX: a\n\r\n",
        "0\r\nX : a\r\n\r\n",
        &long,
        &trailers,
    ] {
        assert!(decoded(input.as_bytes(), 7).is_err(), "{input:?}");
    }
}

#[test]
fn a_known_length_leaves_what_follows() {
    let mut decoder = Decoder::new(Framing::Length(3));
    assert_eq!(decoder.next(b"abcGET"), Ok(Piece { used: 3, data: 3 }));
    assert!(decoder.is_done());
}

#[test]
fn only_a_body_without_a_length_may_end_with_its_connection() {
    assert!(Decoder::new(Framing::UntilClose).end());
    assert!(!Decoder::new(Framing::Length(1)).end());
    assert!(!Decoder::new(Framing::Chunked).end());
}
