//! Owns how a problem becomes an HTTP answer, the one place outside the table of codes. Must not know who answers.

use actix_web::error::JsonPayloadError;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, ETAG, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, ResponseError, web};

use crate::wire::problem::{Code, PROBLEM_JSON, Problem};
use crate::wire::sessions::DataTag;

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut answer = HttpResponse::build(self.status_code()).json(self);
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        answer
    }
}

/// An answer that there is none, with the tag of the removal.
pub fn removed(tag: DataTag, problem: &Problem) -> HttpResponse {
    let mut answer = problem.error_response();
    if let Ok(tag) = HeaderValue::from_str(&tag.to_string()) {
        answer.headers_mut().insert(ETAG, tag);
    }
    answer
}

/// Bounds JSON bodies, and answers bad ones with their line and column.
pub fn json_config(limit: usize) -> web::JsonConfig {
    web::JsonConfig::default().limit(limit).error_handler(move |error, _| bad_json(&error, limit).into())
}

/// Bounds bodies that are read whole.
pub fn payload_config(limit: usize) -> web::PayloadConfig {
    web::PayloadConfig::new(limit)
}

fn bad_json(error: &JsonPayloadError, limit: usize) -> Problem {
    match error {
        JsonPayloadError::Overflow { .. } | JsonPayloadError::OverflowKnownLength { .. } => {
            Problem::new(Code::PayloadTooLarge, format!("the body is larger than {limit} bytes"))
        }
        JsonPayloadError::ContentType => {
            Problem::new(Code::BadRequest, "the body is not JSON").hint("send Content-Type: application/json")
        }
        JsonPayloadError::Deserialize(error) => Problem::new(Code::BadRequest, "the body cannot be read").at(
            "",
            error.line(),
            error.column(),
            error.to_string(),
        ),
        other => Problem::new(Code::BadRequest, format!("the body cannot be read: {other}")),
    }
}

/// Answers what no route answers: `.default_service(web::to(not_found))`.
pub async fn not_found(request: HttpRequest) -> Result<HttpResponse, Problem> {
    Err(Problem::new(Code::NotFound, format!("there is no {}", request.path())))
}
