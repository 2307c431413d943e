//! Owns the question whether an answer is the one that was due. Pure. Must not know how it came.

use std::sync::LazyLock;

use super::answer::{Answer, sha256};
use super::mix::{BODY_BYTES_MAX, Request};
use super::report::FailureKind;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Trouble {
    pub kind: FailureKind,
    pub detail: String,
}

impl Trouble {
    pub fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

/// The body of the request with this id: the id, and then what is the same for all. Never copied.
pub fn body<'a>(request: &Request, id: &'a str) -> [&'a [u8]; 2] {
    static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| (0..BODY_BYTES_MAX).map(|n| b' ' + (n % 89) as u8).collect());
    let named = request.body_bytes.min(id.len());
    [&id.as_bytes()[..named], &PATTERN[..request.body_bytes - named]]
}

/// Checks an answer against what its request expects.
pub fn check(request: &Request, versions: &[String], id: &str, answer: &Answer) -> Result<(), Trouble> {
    let fail = |kind, detail: String| Err(Trouble { kind, detail });
    let echoes = [&answer.traffic_id, &answer.post_id];
    if let Some(other) = echoes.into_iter().flatten().find(|echo| *echo != id) {
        return fail(FailureKind::Crossed, format!("this is the answer to {other}"));
    }
    if answer.status != request.expect_status {
        return fail(FailureKind::Status, unexpected(request, answer));
    }
    if let Some(due) = request.expect_bytes.filter(|due| *due != answer.body_bytes) {
        return fail(FailureKind::Length, format!("{} bytes, expected {due}", answer.body_bytes));
    }
    if request.expect_echo && echoes.iter().all(|echo| echo.is_none()) {
        return fail(FailureKind::NoEcho, "neither X-Traffic-Id nor X-Post-Id in the answer".to_owned());
    }
    if let Some(received) = &answer.body_sha256
        && !received.eq_ignore_ascii_case(&sha256(&body(request, id)))
    {
        return fail(FailureKind::Corrupted, "the program received another body than was sent".to_owned());
    }
    let known = |version: &String| versions.contains(version);
    if !versions.is_empty() && !answer.version.as_ref().is_some_and(known) {
        let version = answer.version.as_deref().unwrap_or("none");
        return fail(FailureKind::Version, format!("version {version}, expected {}", versions.join(" or ")));
    }
    if answer.extra_bytes {
        return fail(FailureKind::ExtraBytes, "bytes came after the end of the answer".to_owned());
    }
    Ok(())
}

fn unexpected(request: &Request, answer: &Answer) -> String {
    let mut told = format!("status {}, expected {}", answer.status, request.expect_status);
    if let Some(after) = &answer.retry_after {
        told += &format!(" (Retry-After: {after})");
    }
    if !answer.sample.is_empty() {
        told += &format!(": {}", String::from_utf8_lossy(&answer.sample).replace(char::is_control, " ").trim());
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Answer {
        Answer { status: 200, body_bytes: 5, version: Some("1".to_owned()), ..Answer::default() }
    }

    fn kind(request: &Request, versions: &[&str], answer: &Answer) -> Option<FailureKind> {
        let versions: Vec<_> = versions.iter().map(|version| (*version).to_owned()).collect();
        check(request, &versions, "t-1", answer).err().map(|trouble| trouble.kind)
    }

    #[test]
    fn each_thing_that_is_wrong_has_its_own_kind() {
        let get = Request::get("/");
        let other = Some("t-2".to_owned());
        assert_eq!(kind(&get, &[], &answer()), None);
        assert_eq!(kind(&get, &["1", "2"], &answer()), None);
        assert_eq!(kind(&get, &["2"], &answer()), Some(FailureKind::Version));
        assert_eq!(kind(&get, &["2"], &Answer { version: None, ..answer() }), Some(FailureKind::Version));
        assert_eq!(kind(&get, &[], &Answer { status: 503, ..answer() }), Some(FailureKind::Status));
        assert_eq!(kind(&get, &[], &Answer { extra_bytes: true, ..answer() }), Some(FailureKind::ExtraBytes));
        assert_eq!(kind(&get, &[], &Answer { traffic_id: other.clone(), ..answer() }), Some(FailureKind::Crossed));
        assert_eq!(kind(&get, &[], &Answer { post_id: other, ..answer() }), Some(FailureKind::Crossed));
        assert_eq!(kind(&get.clone().expect_bytes(6), &[], &answer()), Some(FailureKind::Length));
        assert_eq!(kind(&get.expect_echo(), &[], &answer()), Some(FailureKind::NoEcho));
    }

    #[test]
    fn a_body_starts_with_its_id_and_is_known_by_its_hash() {
        let post = Request::post("/", 10);
        assert_eq!(body(&post, "t-1").concat(), b"t-1 !\"#$%&");
        assert_eq!(body(&Request::post("/", 2), "t-1").concat(), b"t-");
        let whole = Answer { body_sha256: Some(sha256(&body(&post, "t-1"))), ..answer() };
        assert_eq!(kind(&post, &[], &whole), None);
        let other = Answer { body_sha256: Some(sha256(&body(&post, "t-2"))), ..answer() };
        assert_eq!(kind(&post, &[], &other), Some(FailureKind::Corrupted));
    }

    #[test]
    fn an_unexpected_status_is_told_with_what_the_answer_says() {
        let refused =
            Answer { status: 503, retry_after: Some("1".to_owned()), sample: b"no\nserver".to_vec(), ..answer() };
        let told = check(&Request::get("/"), &[], "t-1", &refused).unwrap_err().detail;
        assert_eq!(told, "status 503, expected 200 (Retry-After: 1): no server");
    }
}
