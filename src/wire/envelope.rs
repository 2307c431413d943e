//! Owns the envelope that every message between nodes travels in (protocol, "Messages between nodes").
//! Must not know what messages there are, nor how they travel.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::problem::{Code, Problem};
use crate::domain::names::{NodeName, RunId, Term};

/// Where nodes take messages.
pub const MESSAGES_PATH: &str = "/node/v1/messages";

/// One message: who says it, in which run and under which term, and what.
///
/// `body` is an enum with `#[serde(tag = "type", rename_all = "snake_case")]`. Fields that a reader does not know are
/// ignored, so that nodes of two versions can talk; a `type` that it does not know is refused by name.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Envelope<B> {
    /// The same at every repeat of the message: the receiver acts once.
    pub id: String,
    pub from: NodeName,
    pub run: RunId,
    /// Of management's messages; reports of servers and routers carry none.
    #[serde(default)]
    pub term: Option<Term>,
    /// For people: nothing is decided by it (race "clock skew").
    pub sent_at: Timestamp,
    pub body: B,
}

/// Longest `id` that is taken: receivers keep them.
pub const MAX_ID_LEN: usize = 64;

impl<B: DeserializeOwned> Envelope<B> {
    /// Reads an envelope; the error names the field, or the type that this node does not know.
    pub fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let Envelope { id, from, run, term, sent_at, body } = read::<Envelope<Value>>(bytes)?;
        if id.is_empty() || id.len() > MAX_ID_LEN {
            return Err(Problem::new(Code::BadRequest, format!("id: must have 1 to {MAX_ID_LEN} characters")));
        }
        Ok(Self { id, from, run, term, sent_at, body: read_body(body)? })
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let pointer = pointer(error.path());
        let inner = error.inner();
        Problem::new(Code::BadRequest, "the message cannot be read").at(
            pointer,
            inner.line(),
            inner.column(),
            inner.to_string(),
        )
    })
}

fn read_body<B: DeserializeOwned>(body: Value) -> Result<B, Problem> {
    let kind = match body.get("type") {
        Some(Value::String(kind)) => kind.chars().take(80).collect::<String>(),
        _ => return Err(Problem::new(Code::BadRequest, "body.type is missing: it names the message")),
    };
    serde_path_to_error::deserialize(body).map_err(|error| {
        let said = error.inner().to_string();
        if said.starts_with(&format!("unknown variant `{kind}`")) {
            Problem::new(Code::UnknownMessage, format!("this node knows no message \"{kind}\""))
                .hint("nodes of one cluster must run versions of neap that know each other's messages")
        } else {
            let pointer = format!("/body{}", pointer(error.path()));
            Problem::new(Code::BadRequest, format!("the message \"{kind}\" cannot be read")).at(pointer, 0, 0, said)
        }
    })
}

/// A JSON pointer (RFC 6901) of a path in a document.
pub fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => pointer.push_str(&format!("/{}", key.replace('~', "~0").replace('/', "~1"))),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "type", rename_all = "snake_case")]
    enum Sample {
        Seal { number: u64 },
        Beat,
    }

    fn with(body: &str) -> String {
        format!(r#"{{"id":"1","from":"s1","run":"r1","sent_at":"2026-01-01T00:00:00Z","later":"field","body":{body}}}"#)
    }

    #[test]
    fn an_envelope_reads_back_what_it_writes() {
        let management = NodeName::new("m1").unwrap();
        let envelope = Envelope {
            id: "1".into(),
            from: management.clone(),
            run: RunId::new("r1").unwrap(),
            term: Some(Term { number: 3, management }),
            sent_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            body: Sample::Seal { number: 7 },
        };
        let bytes = serde_json::to_vec(&envelope).unwrap();
        assert_eq!(Envelope::parse(&bytes).unwrap(), envelope);
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let read = Envelope::<Sample>::parse(with(r#"{"type":"seal","number":7,"newer":true}"#).as_bytes()).unwrap();
        assert_eq!(read.body, Sample::Seal { number: 7 });
        assert_eq!(Envelope::<Sample>::parse(with(r#"{"type":"beat"}"#).as_bytes()).unwrap().term, None);
    }

    #[test]
    fn an_unknown_type_is_refused_by_name() {
        let problem = Envelope::<Sample>::parse(with(r#"{"type":"teleport"}"#).as_bytes()).unwrap_err();
        assert_eq!(problem.code, Code::UnknownMessage);
        assert!(problem.detail.contains("\"teleport\""), "{problem:?}");
    }

    #[test]
    fn a_wrong_field_is_refused_with_its_place() {
        let problem = Envelope::<Sample>::parse(with(r#"{"type":"seal","number":"x"}"#).as_bytes()).unwrap_err();
        assert_eq!(problem.code, Code::BadRequest);
        assert!(problem.errors[0].pointer.starts_with("/body"), "{problem:?}");
        let problem = Envelope::<Sample>::parse(with("{}").replace("s1", "S 1").as_bytes()).unwrap_err();
        assert_eq!(problem.errors[0].pointer, "/from");
        let problem = Envelope::<Sample>::parse(b"{").unwrap_err();
        assert_eq!((problem.code, problem.errors[0].line), (Code::BadRequest, Some(1)));
        assert_eq!(Envelope::<Sample>::parse(with("{}").as_bytes()).unwrap_err().code, Code::BadRequest);
        let long = with(r#"{"type":"beat"}"#).replace("\"1\"", &format!("\"{}\"", "1".repeat(65)));
        assert!(Envelope::<Sample>::parse(long.as_bytes()).is_err());
    }
}
