use super::host::{HOST_BYTES, is_host};
use super::*;

fn parsed(text: &str) -> Result<Option<String>, u16> {
    parse(text.as_bytes(), &Limits::default(), |head, length| {
        assert_eq!(length, text.len());
        format!("{} {} {} {:?}", head.method, head.path, head.host, head.body)
    })
    .map_err(|answer| answer.status)
}

fn refused(text: &str) -> u16 {
    parsed(text).expect_err(text)
}

#[test]
fn an_ordinary_head_is_read() {
    let get = "GET /shop/%7Ea?x=%zz HTTP/1.1\r\nHost: example.org:8080\r\n\r\n";
    assert_eq!(parsed(get), Ok(Some("GET /shop/~a example.org:8080 Empty".into())));
    let absolute = "GET http://a.b/x HTTP/1.1\r\nHost: c.d\r\n\r\n";
    assert_eq!(parsed(absolute), Ok(Some("GET /x a.b Empty".into())));
    let post = "POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 5\r\n\r\n";
    assert_eq!(parsed(post), Ok(Some("POST / a Length(5)".into())));
    assert_eq!(parsed("GET / HTTP/1.0\r\n\r\n"), Ok(Some("GET /  Empty".into())));
    assert_eq!(parsed("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(Some("OPTIONS * a Empty".into())));
}

#[test]
fn a_head_of_two_meanings_is_refused() {
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length : 5\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Host: b\r\n",
        "X: a\r\n b\r\n",
        "X: a\nY: b\r\n",
        "X: a\rY: b\r\n",
        "X: a\0b\r\n",
        ": a\r\n",
        "X Y: a\r\n",
    ] {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        assert_eq!(refused(&text), 400, "{lines:?}");
    }
}

#[test]
fn a_head_without_one_host_or_one_target_is_refused() {
    for text in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        assert_eq!(refused(text), 400, "{text:?}");
    }
}

#[test]
fn what_is_not_served_has_its_own_status() {
    assert_eq!(refused("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"), 405);
    assert_eq!(refused("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"), 405);
    assert_eq!(refused("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), 505);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n"), 417);
}

#[test]
fn a_head_beyond_its_bounds_is_refused_before_it_is_whole() {
    let long = format!("GET /{}", "a".repeat(9000));
    assert_eq!(refused(&long), 414);
    assert_eq!(refused(&format!("{long} HTTP/1.1\r\nHost: a\r\n\r\n")), 414);
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {}", "a".repeat(40_000));
    assert_eq!(refused(&large), 431);
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: a\r\n".repeat(HEADERS));
    assert_eq!(refused(&many), 431);
}

#[test]
fn fields_of_one_connection_are_not_sent_on() {
    let text = "GET /shop/x?q HTTP/1.1\r\nHost: a\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n\
                TE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nProxy: p\r\nProxy-Authorization: p\r\nAccept: b\r\n\
                Neap-Session: s\r\nneap_key: k\r\n\r\n";
    let mut out = Vec::new();
    parse(text.as_bytes(), &Limits::default(), |head, _| head.write(5, |name| !is_neap_header(name), &mut out))
        .unwrap()
        .unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "GET /x?q HTTP/1.1\r\nHost: a\r\nAccept: b\r\n");
}

#[test]
fn only_a_get_without_a_body_becomes_a_websocket() {
    let asks = |text: &str| parse(text.as_bytes(), &Limits::default(), |head, _| head.websocket).unwrap().unwrap();
    let lines = "Host: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n";
    assert!(asks(&format!("GET / HTTP/1.1\r\n{lines}\r\n")));
    assert!(!asks(&format!("POST / HTTP/1.1\r\n{lines}\r\n")));
    assert!(!asks("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n"));
    assert!(!asks("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"));
}

#[test]
fn the_end_of_a_head_is_found_though_it_comes_byte_by_byte() {
    let head = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n";
    let mut searched = 0;
    for length in 0..head.len() {
        assert!(!has_end(&head[..length], &mut searched), "{length}");
    }
    assert!(has_end(head, &mut searched));
    assert!(has_end(b"HTTP/1.1 200 OK\n\n", &mut 0));
}

#[test]
fn a_host_is_a_name_or_an_address_and_a_port() {
    for good in ["", "a", "A.b-c_d.example.", "a:80", "a:", "127.0.0.1:1", "[::1]", "[2001:db8::1]:443", "a:65535"] {
        assert!(is_host(good), "{good}");
    }
    let long = "a".repeat(HOST_BYTES + 1);
    for bad in [
        ":", ":80", "a:b", "a:80:80", "a:65536", "a:000080", "a:+1", "::1", "[::1", "[::1]x", "[]", "[a]", "[::1]:x",
        "a,b", "a b", "a%2eb", "u@a", "a/b", "\u{e9}", &long,
    ] {
        assert!(!is_host(bad), "{bad}");
    }
}

mod routed {
    use super::*;
    use crate::domain::manifest;
    use crate::domain::routing::{Ask, RouteTable};
    use proptest::prelude::*;

    fn table() -> RouteTable {
        let text = |name: &str, routes: &str| {
            format!("name = \"{name}\"\nversion = \"1\"\nroutes = [{routes}]\n[static]\nroot = \"public\"\n")
        };
        let all = [text("rest", "\"*/\""), text("a", "\"*/a\", \"*/a/b\""), text("b", "\"*/b/c\"")];
        let manifests: Vec<_> = all.iter().map(|text| manifest::parse("program.toml", text).unwrap()).collect();
        RouteTable::build(&manifests)
    }

    fn target() -> impl Strategy<Value = String> {
        let parts = vec![
            "/",
            "/a",
            "/b",
            "/c",
            "/.",
            "/..",
            "/%2e%2e",
            "/%61",
            "//",
            "%2f",
            "%5c",
            "\\",
            "/..;",
            "/a/b/../..",
            "x",
            "%41",
            "|",
        ];
        let parts = prop::collection::vec(prop::sample::select(parts), 0..10);
        (parts, prop::option::of("[a-z/.?%]{0,8}")).prop_map(|(parts, query)| {
            let query = query.map(|query| format!("?{query}")).unwrap_or_default();
            format!("/{}{query}", parts.concat())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        /// What a request is routed by is what is forwarded, byte for byte, behind the prefix that is taken away; and no
        /// program can be made to climb above it.
        #[test]
        fn by_what_is_forwarded(target in target()) {
            let table = table();
            let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let seen = parse(text.as_bytes(), &Limits::default(), |head, _| {
                let ask = |path| Ask { host: "a", path, headers: std::iter::empty::<(&str, &[u8])>() };
                let matched = table.find(ask(head.path)).unwrap();
                let mut out = Vec::new();
                head.write(matched.prefix_len(), |_| true, &mut out);
                let line = String::from_utf8(out).unwrap();
                let forwarded = line.split(' ').nth(1).unwrap().to_owned();
                (head.path.to_owned(), head.query.map(str::to_owned), matched.prefix_len(), forwarded)
            });
            let Ok(Some((path, query, strip, forwarded))) = seen else { return Ok(()) };
            let (prefix, rest) = path.split_at(strip);
            prop_assert!(rest.is_empty() || rest.starts_with('/'), "{} is cut within a segment", path);
            prop_assert!(["", "/a", "/a/b", "/b/c"].contains(&prefix));
            let expected = if rest.is_empty() { "/" } else { rest };
            let (forwarded, forwarded_query) =
                forwarded.split_once('?').map_or((&forwarded[..], None), |(path, query)| (path, Some(query)));
            prop_assert_eq!(forwarded, expected);
            prop_assert_eq!(forwarded_query, query.as_deref());
            prop_assert_eq!(target.split_once('?').map(|(_, query)| query), query.as_deref(), "queries are as they came");
            prop_assert!(!forwarded.split('/').any(|segment| matches!(segment, "." | "..")), "{} climbs", forwarded);
            let again = path::normalise(forwarded, Bytes::of(forwarded));
            prop_assert_eq!(again.as_deref(), Some(forwarded));
        }
    }
}

impl<'a> RequestHead<'a> {
    /// A head for tests of roles, with nothing unusual in it.
    pub(crate) fn of_test(method: &'a str, path: &'a str, headers: &'a [httparse::Header<'a>]) -> Self {
        Self {
            method,
            path,
            query: None,
            host: "any",
            headers,
            body: Framing::Empty,
            websocket: false,
            expects_continue: false,
            http10: false,
            keep_alive: true,
            lists_headers: false,
            marks: super::Marks::default(),
            plain: false,
            bytes: b"",
        }
    }
}
