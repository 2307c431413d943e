//! Owns the HTTP answer for a file: conditions, ranges, headers, the body in chunks.
//! Must not know how a file is found.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use actix_files::{HttpRange, file_extension_to_mime};
use actix_web::body::SizedStream;
use actix_web::http::{Method, StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use bytes::Bytes;
use futures_util::stream;
use sha2::{Digest, Sha256};

use super::Site;
use super::find::{Found, Opened, find};

/// Bytes that are read at once.
const CHUNK_BYTES: u64 = 64 * 1024;
/// Tags that are remembered.
const TAGS_MAX: usize = 20_000;

/// The ETags of files, by path; forgotten when the file on disk is another.
#[derive(Debug, Default)]
pub struct Tags {
    known: Mutex<HashMap<PathBuf, (Stamp, String)>>,
}

type Stamp = (u64, u64, i64, i64);

impl Tags {
    /// The tag of a file: from its content, read once.
    fn tag(&self, opened: &Opened) -> io::Result<String> {
        let meta = &opened.meta;
        let stamp = (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, tag)) = lock().get(&opened.path)
            && *seen == stamp
        {
            return Ok(tag.clone());
        }
        let tag = hash(&opened.file)?;
        let mut known = lock();
        if known.len() >= TAGS_MAX {
            known.clear();
        }
        known.insert(opened.path.clone(), (stamp, tag.clone()));
        Ok(tag)
    }
}

fn hash(mut file: &File) -> io::Result<String> {
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; CHUNK_BYTES as usize]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    let hex: String = hasher.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("\"{hex}\""))
}

/// Answers one request.
pub async fn answer(request: &HttpRequest, site: Arc<Site>, tags: Arc<Tags>) -> HttpResponse {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return HttpResponse::MethodNotAllowed()
            .insert_header((header::ALLOW, "GET, HEAD"))
            .body("only GET and HEAD\n");
    }
    let (path, accepted) = (request.path().to_owned(), value(request, header::ACCEPT_ENCODING).unwrap_or_default());
    let found = web::block(move || match find(&site, &path, &|encoding| takes(&accepted, encoding)) {
        Found::File(opened) => tags.tag(&opened).map(|tag| (Found::File(opened), tag)),
        other => Ok((other, String::new())),
    });
    match found.await {
        Ok(Ok((Found::File(opened), tag))) => send(request, *opened, &tag),
        Ok(Ok((Found::Directory { location }, _))) => {
            HttpResponse::PermanentRedirect().insert_header((header::LOCATION, location)).finish()
        }
        Ok(Ok((Found::Nothing, _))) => HttpResponse::NotFound().body("not found\n"),
        Ok(Err(_)) | Err(_) => HttpResponse::InternalServerError().body("cannot read the file\n"),
    }
}

fn send(request: &HttpRequest, opened: Opened, tag: &str) -> HttpResponse {
    let size = opened.meta.len();
    if value(request, header::IF_MATCH).is_some_and(|wanted| !matches(&wanted, tag, true)) {
        return HttpResponse::PreconditionFailed().finish();
    }
    if value(request, header::IF_NONE_MATCH).is_some_and(|held| matches(&held, tag, false)) {
        return headers(HttpResponse::NotModified(), &opened, tag).finish();
    }
    // A part is only worth something to one who has the rest of this very content (RFC 9110, 13.1.5).
    let same = value(request, header::IF_RANGE).is_none_or(|held| held == tag);
    let range = value(request, header::RANGE).filter(|_| same && *request.method() == Method::GET);
    let (status, start, length) = match range.map(|range| HttpRange::parse(&range, size)) {
        Some(Ok(ranges)) if ranges.len() == 1 => (StatusCode::PARTIAL_CONTENT, ranges[0].start, ranges[0].length),
        Some(Err(_)) => {
            let unsatisfied = (header::CONTENT_RANGE, format!("bytes */{size}"));
            return HttpResponse::RangeNotSatisfiable().insert_header(unsatisfied).finish();
        }
        // Several parts at once may be answered with the whole (RFC 9110, 14.2).
        Some(Ok(_)) | None => (StatusCode::OK, 0, size),
    };
    let mut response = headers(HttpResponse::build(status), &opened, tag);
    if status == StatusCode::PARTIAL_CONTENT {
        let end = (start + length).saturating_sub(1);
        response.insert_header((header::CONTENT_RANGE, format!("bytes {start}-{end}/{size}")));
    }
    let mime = file_extension_to_mime(opened.plain.extension().and_then(|ext| ext.to_str()).unwrap_or_default());
    let text = mime.type_() == "text" && mime.get_param("charset").is_none();
    response.insert_header((header::CONTENT_TYPE, format!("{mime}{}", if text { "; charset=utf-8" } else { "" })));
    response.body(SizedStream::new(length, chunks(opened.file, start, length)))
}

fn headers(mut response: HttpResponseBuilder, opened: &Opened, tag: &str) -> HttpResponseBuilder {
    response.insert_header((header::ETAG, tag));
    response.insert_header((header::ACCEPT_RANGES, "bytes"));
    response.insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"));
    if opened.varies {
        response.insert_header((header::VARY, "Accept-Encoding"));
    }
    if let Some(encoding) = opened.encoding {
        response.insert_header((header::CONTENT_ENCODING, encoding));
    }
    response
}

/// A part of a file as a stream; a file that shrinks meanwhile breaks it, which the client sees.
fn chunks(file: File, start: u64, length: u64) -> impl stream::Stream<Item = io::Result<Bytes>> {
    let file = Arc::new(file);
    Box::pin(stream::try_unfold((file, start, length), |(file, at, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let (reader, count) = (file.clone(), left.min(CHUNK_BYTES) as usize);
        let read = move || {
            let mut chunk = vec![0; count];
            reader.read_exact_at(&mut chunk, at).map(|()| chunk)
        };
        let chunk = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
        Ok(Some((Bytes::from(chunk), (file, at + count as u64, left - count as u64))))
    }))
}

/// A header's value, as text; several are joined as a list.
fn value(request: &HttpRequest, name: header::HeaderName) -> Option<String> {
    let values: Vec<&str> = request.headers().get_all(name).filter_map(|value| value.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// Whether a list of tags has this one. Ours are strong; a weak one equals it where weak comparison is asked for.
fn matches(list: &str, tag: &str, strong: bool) -> bool {
    list.split(',').map(str::trim).any(|item| {
        let item = if strong { item } else { item.strip_prefix("W/").unwrap_or(item) };
        item == "*" || item == tag
    })
}

/// Whether an Accept-Encoding names an encoding, and not with weight 0.
fn takes(accepted: &str, encoding: &str) -> bool {
    accepted.split(',').any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(encoding));
        let refused = |part: &str| {
            let weight = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
            weight.is_some_and(|weight| weight.trim_matches(['0', '.']).is_empty())
        };
        named && !parts.any(refused)
    })
}
