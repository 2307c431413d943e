//! Owns the routes about releases: push, list, remove, fetch. Must not know how an archive is packed.

use actix_files::NamedFile;
use actix_web::web::{Data, Path, Payload, Query};
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::StreamExt;
use serde::Deserialize;

use super::{Answer, Desk, Paging, name};
use crate::domain::names::{ProgramName, Release, Sha256, Version};
use crate::domain::program::Manifest;
use crate::management::control::Control;
use crate::management::records::ReleaseRecord;
use crate::management::views;
use crate::programs::archive::ArchiveError;
use crate::programs::disk::DiskError;
use crate::programs::release::{ReleaseError, manifest_in};
use crate::programs::shelf::{Held, Incoming};
use crate::wire::problem::{Code, Problem};

pub async fn list(desk: Data<Desk>, paging: Query<Paging>) -> Answer {
    let program = paging.program.clone();
    let releases = desk.look(move |control| views::releases(control, program.as_ref())).await?;
    Ok(HttpResponse::Ok()
        .json(paging.cut(desk.page_limit, releases, |release| format!("{}/{}", release.program, release.version))))
}

#[derive(Deserialize)]
pub struct Pushed {
    sha256: Sha256,
    program: ProgramName,
    version: Version,
}

pub async fn push(desk: Data<Desk>, pushed: Query<Pushed>, mut body: Payload) -> Answer {
    let Pushed { sha256, program, version } = pushed.into_inner();
    let release = Release { version, sha256 };
    let (of, wanted) = (program.clone(), release.clone());
    let known = desk.look(move |control| known(control, &of, &wanted)).await??;
    let mut incoming = desk.shelf.receive(&program).map_err(disk_problem)?;
    let mut bytes = 0;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| {
            Problem::new(Code::BadRequest, format!("the release did not arrive whole: {error}")).hint("push it again")
        })?;
        bytes += chunk.len() as u64;
        if bytes > desk.release_limit {
            let limit = desk.release_limit;
            return Err(Problem::new(Code::PayloadTooLarge, format!("a release has at most {limit} bytes")));
        }
        incoming = web::block(move || incoming.write(&chunk).map(|()| incoming))
            .await
            .map_err(pool)?
            .map_err(archive_problem)?;
    }
    let expected = (program.clone(), release.clone());
    let (held, manifest) = web::block(move || finish(incoming, &expected.0, &expected.1)).await.map_err(pool)??;
    if manifest.name != program || manifest.version != release.version {
        let said = format!("the archive is {} {}, not {program} {}", manifest.name, manifest.version, release.version);
        return Err(Problem::new(Code::BadRequest, said));
    }
    let record = ReleaseRecord { release, manifest, size: Some(held.bytes), pushed_at: jiff::Timestamp::now() };
    let kept = desk.with(move |control| keep(control, &program, record)).await??;
    let shelf = desk.shelf.clone();
    let sweep = move || kept.gone.iter().try_for_each(|sha| shelf.remove(&kept.view.program, *sha)).map(|()| kept.view);
    let view = web::block(sweep).await.map_err(pool)?.map_err(disk_problem)?;
    let mut answer = if known { HttpResponse::Ok() } else { HttpResponse::Created() };
    Ok(answer.json(view))
}

/// Whether this very release is here; a version is immutable, so other content under it is refused.
fn known(control: &Control, program: &ProgramName, release: &Release) -> Result<bool, Problem> {
    let Some(held) = control.releases.get(program).and_then(|all| all.get(&release.version)) else { return Ok(false) };
    if held.release.sha256 == release.sha256 {
        return Ok(held.size.is_some());
    }
    let version = &release.version;
    Err(Problem::new(Code::VersionInUse, format!("{program} {version} exists already, with other content"))
        .hint("a version never changes: give the new content another version, such as with --version"))
}

fn finish(incoming: Incoming, program: &ProgramName, release: &Release) -> Result<(Held, Manifest), Problem> {
    let found = incoming.digest().map_err(archive_problem)?;
    if found != release.sha256 {
        let said = format!("the archive's SHA-256 is {found}, not {}", release.sha256);
        return Err(Problem::new(Code::BadChecksum, said).hint("it was damaged on its way: push it again"));
    }
    let manifest = manifest_in(incoming.path()).map_err(|error| release_problem(error, program))?;
    Ok((incoming.finish(release.sha256).map_err(archive_problem)?, manifest))
}

struct Kept {
    view: crate::wire::api::ReleaseView,
    gone: Vec<Sha256>,
}

/// Keeps the record, and lets the oldest go that nothing uses.
fn keep(control: &mut Control, program: &ProgramName, record: ReleaseRecord) -> Result<Kept, Problem> {
    known(control, program, &record.release)?;
    let version = record.release.version.clone();
    control.releases.entry(program.clone()).or_default().insert(version, record.clone());
    let mut spare: Vec<_> = control.releases[program]
        .values()
        .filter(|held| held.release != record.release && !in_use(control, program, &held.release))
        .map(|held| (held.pushed_at, held.release.clone()))
        .collect();
    spare.sort_by_key(|(pushed_at, _)| std::cmp::Reverse(*pushed_at));
    let gone: Vec<Release> =
        spare.into_iter().skip(control.bounds.releases_kept.saturating_sub(1)).map(|(_, release)| release).collect();
    if let Some(of_program) = control.releases.get_mut(program) {
        of_program.retain(|_, held| !gone.contains(&held.release));
    }
    let view = views::release(control, program, &record);
    Ok(Kept { view, gone: gone.into_iter().map(|release| release.sha256).collect() })
}

/// Whether a server holds a release, or is meant to.
fn in_use(control: &Control, program: &ProgramName, release: &Release) -> bool {
    let wanted = control.leader.list.programs.get(program).and_then(|wanted| wanted.release.as_ref());
    let coming = control.ripples.values().any(|record| {
        let steps = record.plan.steps.iter().flat_map(|step| step.from.iter().chain(&step.back_to));
        record.ended_at.is_none()
            && record.plan.program == *program
            && record.plan.to.iter().chain(steps).any(|planned| planned == release)
    });
    let cells = control.leader.list.cells.get(program).into_iter().flat_map(|cells| cells.values());
    let held = cells.into_iter().any(|cell| {
        let desired = cell.desired.as_ref().and_then(|desired| desired.release.as_ref());
        let seen = cell.observed.as_ref().and_then(|seen| seen.release.as_ref());
        desired == Some(release) || seen == Some(release)
    });
    wanted == Some(release) || coming || held
}

pub async fn remove(desk: Data<Desk>, at: Path<(String, String)>) -> Answer {
    let (program, version) = at.into_inner();
    let program: ProgramName = name(&program, Code::UnknownRelease)?;
    let version: Version = name(&version, Code::UnknownRelease)?;
    let of = program.clone();
    let sha256 = desk.with(move |control| forget(control, &of, &version)).await??;
    let shelf = desk.shelf.clone();
    web::block(move || shelf.remove(&program, sha256)).await.map_err(pool)?.map_err(disk_problem)?;
    Ok(HttpResponse::NoContent().finish())
}

fn forget(control: &mut Control, program: &ProgramName, version: &Version) -> Result<Sha256, Problem> {
    let held = control.releases.get(program).and_then(|all| all.get(version)).map(|record| record.release.clone());
    let release = held.ok_or_else(|| {
        Problem::new(Code::UnknownRelease, format!("there is no release {program} {version}"))
            .hint("`neap release ls` shows what there is")
    })?;
    if in_use(control, program, &release) {
        return Err(Problem::new(Code::ReleaseInUse, format!("{program} {version} is in use"))
            .hint("upgrade its servers to another version first"));
    }
    if let Some(of_program) = control.releases.get_mut(program) {
        of_program.remove(version);
    }
    Ok(release.sha256)
}

/// The archive, for servers.
pub async fn archive(desk: Data<Desk>, at: Path<(String, String)>, request: HttpRequest) -> Answer {
    let (program, sha256) = at.into_inner();
    let program: ProgramName = name(&program, Code::UnknownRelease)?;
    let sha256: Sha256 = name(&sha256, Code::UnknownRelease)?;
    let path = desk.shelf.path(&program, sha256);
    let path =
        path.ok_or_else(|| Problem::new(Code::UnknownRelease, format!("{program} {sha256} is not kept here")))?;
    let file = NamedFile::open_async(path).await;
    Ok(file.map_err(|error| Problem::new(Code::Internal, error.to_string()))?.into_response(&request))
}

fn pool(_: actix_web::error::BlockingError) -> Problem {
    Problem::new(Code::Unavailable, "management is stopping")
}

fn disk_problem(error: DiskError) -> Problem {
    let code = if error.is_full() { Code::DiskFull } else { Code::Internal };
    Problem::new(code, error.to_string()).hint("look at the disk of [node] data_dir on the management node")
}

fn archive_problem(error: ArchiveError) -> Problem {
    match error {
        ArchiveError::Disk(error) => disk_problem(error),
        ArchiveError::Checksum { .. } => Problem::new(Code::BadChecksum, error.to_string()).hint("push it again"),
        ArchiveError::TooLarge { .. } => Problem::new(Code::PayloadTooLarge, error.to_string()),
        other => Problem::new(Code::BadArchive, other.to_string()).hint("make it with `neap release push DIR`"),
    }
}

fn release_problem(error: ReleaseError, program: &ProgramName) -> Problem {
    match error {
        ReleaseError::Manifest(errors) => {
            let mut problem = Problem::new(Code::InvalidManifest, format!("{program}: {errors}"));
            for error in &errors.errors {
                problem = problem.at("", error.line as usize, error.column as usize, error.message.clone());
            }
            problem
        }
        ReleaseError::Archive(error) => archive_problem(error),
        ReleaseError::Disk(error) => disk_problem(error),
        other => Problem::new(Code::BadArchive, other.to_string()),
    }
}
