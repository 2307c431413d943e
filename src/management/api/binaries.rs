//! Owns the routes about neap's own binaries: push, fetch, and the upgrade of all nodes to one. Must not know how a node
//! takes one.

use actix_files::NamedFile;
use actix_web::web::{Data, Json, Path, Payload, Query};
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::StreamExt;
use serde::Deserialize;

use super::ripples::{self, Started};
use super::{Answer, Desk, asked_by, name};
use crate::domain::names::{Sha256, Version};
use crate::management::{node_asks, node_views};
use crate::programs::binaries::{self, BadBinary};
use crate::wire::api::{BinaryUpgradeRequest, BinaryView};
use crate::wire::binary::{BYTES_MAX, Binary};
use crate::wire::problem::{Code, Problem};

#[derive(Deserialize)]
pub struct Pushed {
    sha256: Sha256,
}

/// Takes a binary in, bounded and hashed as it comes; it is kept if it is a neap that runs on this machine.
pub async fn push(desk: Data<Desk>, pushed: Query<Pushed>, mut body: Payload) -> Answer {
    let sha256 = pushed.into_inner().sha256;
    let known = desk.binaries.path(sha256).is_some();
    if !known {
        let mut arriving = desk.binaries.receive(BYTES_MAX).map_err(|error| problem(error.into()))?;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| {
                Problem::new(Code::BadRequest, format!("the binary did not arrive whole: {error}"))
                    .hint("push it again")
            })?;
            arriving =
                web::block(move || arriving.write(&chunk).map(|()| arriving)).await.map_err(pool)?.map_err(problem)?;
        }
        web::block(move || arriving.finish(sha256)).await.map_err(pool)?.map_err(problem)?;
    }
    let (binary, size_bytes) = held(&desk, sha256).await?;
    let in_use = desk.look(node_asks::in_use).await?;
    let binaries = desk.binaries.clone();
    let swept = web::block(move || binaries.sweep(&[&in_use[..], &[sha256]].concat())).await.map_err(pool)?;
    if let Err(error) = swept {
        tracing::warn!(%error, "old binaries stay");
    }
    let mut answer = if known { HttpResponse::Ok() } else { HttpResponse::Created() };
    Ok(answer.json(BinaryView { sha256, version: shown(&binary)?, protocol: binary.protocol, size_bytes }))
}

fn shown(binary: &Binary) -> Result<Version, Problem> {
    Version::new(binary.shown()).map_err(|error| Problem::new(Code::BadBinary, error.to_string()))
}

/// A binary that is kept, tried; one that is no good is kept no longer.
async fn held(desk: &Desk, sha256: Sha256) -> Result<(Binary, u64), Problem> {
    let unknown = || {
        Problem::new(Code::NotFound, format!("there is no binary {sha256}"))
            .hint("`neap upgrade --component neap --binary FILE` brings it here first")
    };
    let path = desk.binaries.path(sha256).ok_or_else(unknown)?;
    match binaries::check(&path).await {
        Ok(binary) if binary.sha256 == sha256 => {
            let size = std::fs::metadata(&path).map(|meta| meta.len());
            Ok((binary, size.map_err(|error| Problem::new(Code::Internal, error.to_string()))?))
        }
        Ok(binary) => {
            crate::programs::disk::remove_any(&path);
            Err(problem(BadBinary::Checksum { expected: sha256, found: binary.sha256 }))
        }
        // That the machine is busy says nothing of the file.
        Err(error @ (BadBinary::Late(_) | BadBinary::Disk(_))) => Err(problem(error)),
        Err(error) => {
            crate::programs::disk::remove_any(&path);
            Err(problem(error))
        }
    }
}

/// The binary, for nodes.
pub async fn fetch(desk: Data<Desk>, at: Path<String>, request: HttpRequest) -> Answer {
    let sha256: Sha256 = name(&at, Code::NotFound)?;
    let path = desk.binaries.path(sha256);
    let path = path.ok_or_else(|| Problem::new(Code::NotFound, format!("binary {sha256} is not kept here")))?;
    let file = NamedFile::open_async(path).await;
    Ok(file.map_err(|error| Problem::new(Code::Internal, error.to_string()))?.into_response(&request))
}

/// Plans the upgrade of all nodes to a binary, or starts it.
pub async fn upgrade(
    desk: Data<Desk>,
    at: Path<String>,
    started: Query<Started>,
    body: Json<BinaryUpgradeRequest>,
    request: HttpRequest,
) -> Answer {
    let sha256: Sha256 = name(&at, Code::NotFound)?;
    let ((binary, _), ask) = (held(&desk, sha256).await?, body.into_inner());
    if started.dry_run {
        let plan = desk.look(move |control| {
            let planned = node_asks::plan(control, &binary, &ask)?;
            let id = node_asks::plan_id(control, &planned);
            let no_name = || Problem::new(Code::Internal, "the binary has no name");
            node_views::plan(control, &planned, &binary, id).ok_or_else(no_name)
        });
        return Ok(HttpResponse::Ok().json(plan.await??));
    }
    let asked_by = asked_by(&request);
    let id = desk.with(move |control| node_asks::start(control, &binary, &ask, asked_by)).await??;
    ripples::accepted(&desk, id).await
}

fn pool(_: actix_web::error::BlockingError) -> Problem {
    Problem::new(Code::Unavailable, "management is stopping")
}

fn problem(error: BadBinary) -> Problem {
    match error {
        BadBinary::Disk(error) => {
            let code = if error.is_full() { Code::DiskFull } else { Code::Internal };
            Problem::new(code, error.to_string()).hint("look at the disk of [node] data_dir on the management node")
        }
        BadBinary::Checksum { .. } => Problem::new(Code::BadChecksum, error.to_string()).hint("push it again"),
        BadBinary::Late(_) => Problem::new(Code::Unavailable, format!("the file was tried, and {error}"))
            .hint("is the management node busy? ask again: the file is kept"),
        BadBinary::TooLarge { .. } => Problem::new(Code::PayloadTooLarge, error.to_string()),
        other => Problem::new(Code::BadBinary, format!("the file cannot take a node's place: {other}"))
            .hint("give the neap binary of this machine's kind, such as target/release/neap"),
    }
}
