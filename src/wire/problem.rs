//! Owns how an error is told across a boundary: problem+json (RFC 9457) with a stable code, and the one table from
//! code to HTTP status and exit code. Must not know HTTP libraries, nor where errors come from.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident $code:literal $status:literal $exit:literal $title:literal;)*) => {
        /// Why something did not happen, for programs: stable, one word.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
        #[serde(from = "String", into = "&'static str")]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];

            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $code,)* }
            }

            /// The HTTP status that answers with it.
            pub const fn status(self) -> u16 {
                match self { $(Code::$variant => $status,)* }
            }

            /// What a command that meets it exits with (interface, "exit code").
            pub const fn exit(self) -> u8 {
                match self { $(Code::$variant => $exit,)* }
            }

            pub const fn title(self) -> &'static str {
                match self { $(Code::$variant => $title,)* }
            }
        }

        impl From<String> for Code {
            /// A code of a newer version of neap reads as `internal`; the problem's own words still tell.
            fn from(given: String) -> Code {
                match given.as_str() { $($code => Code::$variant,)* _ => Code::Internal }
            }
        }
    };
}

// The one table: variant, code, HTTP status, exit code, title.
codes! {
    BadRequest         "bad_request"          400 2 "The request cannot be read";
    InvalidManifest    "invalid_manifest"     422 2 "The manifest is not valid";
    InvalidConfig      "invalid_config"       422 2 "The configuration is not valid";
    BadArchive         "bad_archive"          422 2 "The release's archive is not valid";
    BadBinary          "bad_binary"           422 2 "The file is no neap binary that runs here";
    VersionSkew        "version_skew"         409 5 "The releases are too far apart";
    BadChecksum        "bad_checksum"         422 1 "The content is not what its SHA-256 says";
    NotBuiltYet        "not_built_yet"        501 2 "This is not built yet";
    UnknownMessage     "unknown_message"      400 1 "This node does not know the message";
    UnknownProgram     "unknown_program"      404 2 "There is no such program";
    UnknownVersion     "unknown_version"      404 2 "The program has no such version";
    UnknownRipple      "unknown_ripple"       404 2 "There is no such ripple";
    UnknownNode        "unknown_node"         404 2 "There is no such node";
    UnknownComponent   "unknown_component"    404 2 "There is no such component";
    UnknownSession     "unknown_session"      404 2 "There is no such session";
    SessionEnded       "session_ended"        404 1 "The session has ended";
    NoSessionData      "no_session_data"      404 1 "The session has no data";
    StaleData          "stale_data"           412 5 "The data has changed since";
    UnknownRelease     "unknown_release"      404 2 "There is no such release";
    NotFound           "not_found"            404 2 "There is nothing here";
    MethodNotAllowed   "method_not_allowed"   405 2 "This cannot be done to that";
    VersionInUse       "version_in_use"       409 5 "The version names other content";
    NothingToDo        "nothing_to_do"        200 0 "There is nothing to do";
    Busy               "busy"                 409 5 "The program has an operation under way";
    RouteTaken         "route_taken"          409 5 "Another program has the route";
    MinServing         "min_serving"          409 5 "Too few servers would go on serving";
    NoServer           "no_server"            409 5 "No server hosts the program";
    ReleaseInUse       "release_in_use"       409 5 "The release is in use";
    RippleEnded        "ripple_ended"         409 5 "The ripple has ended";
    CannotUndo         "cannot_undo"          409 5 "The ripple cannot be undone";
    NothingToPromote   "nothing_to_promote"   409 5 "The ripple has no canaries";
    StaleTerm          "stale_term"           409 1 "A newer leadership has spoken";
    StaleGeneration    "stale_generation"     409 1 "The placement has moved on";
    NotLeader          "not_leader"           409 6 "This management does not lead";
    PreconditionFailed "precondition_failed"  412 5 "The cluster has changed since";
    Unauthorized       "unauthorized"         401 6 "The cluster's key is missing or wrong";
    ForbiddenHost      "forbidden_host"       421 6 "This address is not known by that name";
    ForbiddenOrigin    "forbidden_origin"     403 6 "Other sites' pages may not ask";
    PayloadTooLarge    "payload_too_large"    413 2 "The body is larger than is taken";
    HeadTooLarge       "head_too_large"       431 2 "The request's head is larger than is taken";
    QueueFull          "queue_full"           503 1 "A queue is full";
    TooManyRequests    "too_many_requests"    429 1 "Too many requests at once";
    DiskFull           "disk_full"            507 1 "The disk is full";
    NoPorts            "no_ports"             503 1 "No port of the range is free";
    StartFailed        "start_failed"         500 1 "The program did not start";
    StoreFailed        "store_failed"         500 1 "The store failed";
    Unavailable        "unavailable"          503 1 "This cannot be answered now";
    TimedOut           "timed_out"            504 1 "It took too long";
    Unreachable        "unreachable"          502 6 "The node cannot be reached";
    Internal           "internal"             500 1 "neap made a mistake";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<Code> for &'static str {
    fn from(code: Code) -> Self {
        code.as_str()
    }
}

/// One place in what was given, and what is wrong there.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Fault {
    /// JSON pointer (RFC 6901); empty: the whole.
    pub pointer: String,
    /// Counted from 1, where the input is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    pub message: String,
}

/// An error as a node answers it and as a command shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// A URN of the code.
    #[serde(rename = "type", default)]
    pub kind: Box<str>,
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub status: u16,
    /// What is wrong, in one sentence, with the names in it.
    #[serde(default)]
    pub detail: String,
    pub code: Code,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Fault>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:neap:problem:{code}").into(),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            code,
            hint: None,
            errors: Vec::new(),
        }
    }

    /// Adds the cure.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a place; line and column of 0 are unknown.
    pub fn at(mut self, pointer: impl Into<String>, line: usize, column: usize, message: impl Into<String>) -> Self {
        let known = |number: usize| Some(number).filter(|number| *number > 0);
        let (line, column) = (known(line), known(column));
        self.errors.push(Fault { pointer: pointer.into(), line, column, message: message.into() });
        self
    }

    /// Reads a problem out of an answer; an answer that is none becomes one, so that there is always something to show.
    pub fn read(status: u16, body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_else(|_| {
            let code = match status {
                401 => Code::Unauthorized,
                404 => Code::NotFound,
                405 => Code::MethodNotAllowed,
                413 => Code::PayloadTooLarge,
                503 => Code::Unavailable,
                504 => Code::TimedOut,
                _ => Code::Internal,
            };
            let said: String = String::from_utf8_lossy(body).trim().chars().take(200).collect();
            Self { status, ..Self::new(code, format!("answered {status}: {said}")) }
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = if self.detail.is_empty() { &self.title } else { &self.detail };
        write!(f, "{detail}")?;
        for fault in &self.errors {
            write!(f, "\n  {}", if fault.pointer.is_empty() { "/" } else { &fault.pointer })?;
            if let Some(line) = fault.line {
                write!(f, " line {line}")?;
            }
            if let Some(column) = fault.column {
                write!(f, " column {column}")?;
            }
            write!(f, ": {}", fault.message)?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_and_fails_over_http_where_it_fails_at_exit() {
        for &code in Code::ALL {
            assert_eq!(Code::from(code.as_str().to_owned()), code);
            assert_eq!((400..600).contains(&code.status()), code.exit() != 0, "{code}");
            assert!([0, 1, 2, 5, 6].contains(&code.exit()), "{code}");
        }
    }

    #[test]
    fn a_problem_is_json_as_rfc_9457_has_it() {
        let problem = Problem::new(Code::Busy, "shop is being upgraded").hint("wait").at("/to", 3, 0, "x");
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(json["type"], "urn:neap:problem:busy");
        assert_eq!((&json["status"], &json["code"]), (&409.into(), &"busy".into()));
        assert_eq!(json["errors"], serde_json::json!([{"pointer": "/to", "line": 3, "message": "x"}]));
        assert_eq!(Problem::read(409, json.to_string().as_bytes()), problem);
    }

    #[test]
    fn an_answer_that_is_no_problem_becomes_one() {
        let problem = Problem::read(404, b"nothing");
        assert_eq!((problem.code, problem.status), (Code::NotFound, 404));
        assert!(problem.to_string().contains("nothing"));
        assert_eq!(Problem::read(409, br#"{"code":"newer"}"#).code, Code::Internal);
    }
}
