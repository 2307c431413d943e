//! Owns neap's own binaries on a node's disk (`binaries/<sha256>`): received, verified, tried, and put in the place that a
//! node is started from. Must not know which one a node is to run.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use sha2::Digest;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::disk::{self, DiskError, NotTaken, UNFINISHED, Unfinished};
use crate::domain::names::Sha256;
use crate::wire::binary::{Binary, PROTOCOL};

/// Binaries that are kept, beside those in use.
const KEPT: usize = 3;
/// How long one may take to say what it is.
const SAYS_WITHIN: Duration = Duration::from_secs(20);
/// Bytes of what it says.
const SAID_MAX: u64 = 4096;
/// Bytes of an ELF file's head up to its machine.
const ELF_HEAD: usize = 20;
/// Tries to start a file that another process, forked meanwhile, still has open for writing.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(20);
const PIECE: usize = 256 * 1024;

/// The file that this process runs, also where another is in its place by now.
const OWN: &str = "/proc/self/exe";

/// Why a file cannot take a node's place.
#[derive(Debug, thiserror::Error)]
pub enum BadBinary {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("its SHA-256 is {found}, not {expected}: it did not arrive whole")]
    Checksum { expected: Sha256, found: Sha256 },
    #[error("it has more than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("it is no ELF file")]
    NotElf,
    #[error("it is made for another kind of machine (ELF machine {found}, and this one runs {own})")]
    Machine { found: u16, own: u16 },
    #[error("it does not run: {0}")]
    DoesNotRun(String),
    #[error("it said nothing within {}", crate::domain::duration::show(*.0))]
    Late(Duration),
    #[error("it is not neap: asked for its version, it said \"{0}\"")]
    NotNeap(String),
}

impl From<NotTaken> for BadBinary {
    fn from(error: NotTaken) -> Self {
        match error {
            NotTaken::Disk(error) => error.into(),
            NotTaken::TooLarge { limit } => Self::TooLarge { limit },
        }
    }
}

/// The binaries that a node keeps. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Binaries {
    root: PathBuf,
}

impl Binaries {
    /// Opens `<data_dir>/binaries`, made where it is missing; removes what an earlier run left unfinished.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, DiskError> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(DiskError::at("create", &root))?;
        disk::sweep_unfinished(&root)?;
        Ok(Self { root })
    }

    /// Where a binary is kept, if it is.
    pub fn path(&self, sha256: Sha256) -> Option<PathBuf> {
        let path = self.root.join(sha256.to_string());
        path.is_file().then_some(path)
    }

    /// Begins to receive one of at most `limit` bytes; it is kept when `Arriving::finish` says so.
    pub fn receive(&self, limit: u64) -> Result<Arriving, DiskError> {
        let file = disk::Arriving::in_dir(&self.root, limit)?;
        Ok(Arriving { root: self.root.clone(), file, hasher: sha2::Sha256::new() })
    }

    /// Keeps the file that this process runs, so that it can be gone back to.
    pub fn keep_own(&self, sha256: Sha256) -> Result<PathBuf, BadBinary> {
        if let Some(path) = self.path(sha256) {
            return Ok(path);
        }
        let mut own = File::open(OWN).map_err(DiskError::at("open", OWN))?;
        let mut arriving = self.receive(u64::MAX)?;
        let mut piece = vec![0; PIECE];
        loop {
            match own.read(&mut piece).map_err(DiskError::at("read", OWN))? {
                0 => return arriving.finish(sha256),
                count => arriving.write(&piece[..count])?,
            }
        }
    }

    /// Removes all but the newest few and those in use.
    pub fn sweep(&self, in_use: &[Sha256]) -> Result<(), DiskError> {
        let mut kept: Vec<(SystemTime, Sha256, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(DiskError::at("read", &self.root))? {
            let entry = entry.map_err(DiskError::at("read", &self.root))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let (Ok(sha256), false) = (name.parse::<Sha256>(), name.starts_with(UNFINISHED)) else { continue };
            let since = entry.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            kept.push((since, sha256, entry.path()));
        }
        kept.sort_by_key(|(since, ..)| std::cmp::Reverse(*since));
        let spare = kept.iter().filter(|(_, sha256, _)| !in_use.contains(sha256)).skip(KEPT);
        spare.for_each(|(.., path)| disk::remove_any(path));
        Ok(())
    }
}

/// A binary that is being received, and hashed as it comes.
#[derive(Debug)]
pub struct Arriving {
    root: PathBuf,
    file: disk::Arriving,
    hasher: sha2::Sha256,
}

impl Arriving {
    pub fn write(&mut self, piece: &[u8]) -> Result<(), BadBinary> {
        self.hasher.update(piece);
        Ok(self.file.write(piece)?)
    }

    /// Verifies it, and puts it in place; what is wrong is removed.
    pub fn finish(self, expected: Sha256) -> Result<PathBuf, BadBinary> {
        let found = Sha256(self.hasher.finalize().into());
        if found != expected {
            return Err(BadBinary::Checksum { expected, found });
        }
        self.file.make_runnable()?;
        let path = self.root.join(expected.to_string());
        self.file.put(&path)?;
        Ok(path)
    }
}

/// The SHA-256 of a file.
pub fn digest(path: &Path) -> Result<Sha256, DiskError> {
    let mut file = File::open(path).map_err(DiskError::at("open", path))?;
    let (mut hasher, mut piece) = (sha2::Sha256::new(), vec![0; PIECE]);
    loop {
        match file.read(&mut piece).map_err(DiskError::at("read", path))? {
            0 => return Ok(Sha256(hasher.finalize().into())),
            count => hasher.update(&piece[..count]),
        }
    }
}

/// The same, of a file that is large, without holding up what else this thread does.
async fn digest_aside(path: &Path) -> Result<Sha256, DiskError> {
    let at = path.to_owned();
    let hashed = tokio::task::spawn_blocking(move || digest(&at)).await;
    hashed.unwrap_or_else(|error| Err(DiskError::at("read", path)(io::Error::other(error))))
}

/// The binary that this process runs.
pub fn own() -> Result<Binary, DiskError> {
    Ok(Binary { sha256: digest(Path::new(OWN))?, ..about() })
}

/// What this process would say of its binary, without its SHA-256, which costs reading it.
pub fn about() -> Binary {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Binary { sha256: Sha256([0; 32]), version, protocol: marked_protocol().unwrap_or(PROTOCOL) }
}

/// Of test builds: another protocol, named behind the file's last section, stands for another release.
fn marked_protocol() -> Option<u32> {
    if !cfg!(debug_assertions) {
        return None;
    }
    let mut file = File::open(OWN).ok()?;
    file.seek(SeekFrom::End(-64)).ok()?;
    let mut end = Vec::new();
    file.read_to_end(&mut end).ok()?;
    let text = String::from_utf8_lossy(&end).into_owned();
    text.rsplit_once("neap-protocol=")?.1.trim_end().parse().ok()
}

#[derive(Deserialize)]
struct About {
    version: String,
    protocol: u32,
}

/// Tries a file: whether it is a neap that runs on this machine. Answers with its version and protocol.
pub async fn check(path: &Path) -> Result<Binary, BadBinary> {
    let machine = machine(path)?;
    let own = self::machine(Path::new(OWN))?;
    if machine != own {
        return Err(BadBinary::Machine { found: machine, own });
    }
    let said = says(path, "--version", SAYS_WITHIN).await?;
    let version = said.trim().strip_prefix("neap ").ok_or_else(|| BadBinary::NotNeap(first_words(&said)))?.to_owned();
    // One that knows no such word is of a release before there were any.
    let about = match says(path, "about", SAYS_WITHIN).await {
        Ok(said) => serde_json::from_str(&said).unwrap_or(About { version, protocol: 0 }),
        Err(late @ BadBinary::Late(_)) => return Err(late),
        Err(_) => About { version, protocol: 0 },
    };
    Ok(Binary { sha256: digest_aside(path).await?, version: about.version, protocol: about.protocol })
}

fn first_words(said: &str) -> String {
    said.trim().chars().filter(|c| !c.is_control()).take(60).collect()
}

fn machine(path: &Path) -> Result<u16, BadBinary> {
    let mut head = [0; ELF_HEAD];
    let mut file = File::open(path).map_err(DiskError::at("open", path))?;
    file.read_exact(&mut head).map_err(|_| BadBinary::NotElf)?;
    if !head.starts_with(b"\x7fELF") {
        return Err(BadBinary::NotElf);
    }
    let bytes = [head[18], head[19]];
    Ok(if head[5] == 2 { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
}

async fn says(path: &Path, word: &str, within: Duration) -> Result<String, BadBinary> {
    let run = |error: io::Error| BadBinary::DoesNotRun(error.to_string());
    let mut child = spawn(path, word).await.map_err(run)?;
    let mut said = Vec::new();
    let out = child.stdout.take();
    let ended = async {
        if let Some(out) = out {
            out.take(SAID_MAX).read_to_end(&mut said).await?;
        }
        child.wait().await
    };
    let late = |_| BadBinary::Late(within);
    let status = tokio::time::timeout(within, ended).await.map_err(late)?.map_err(run)?;
    if !status.success() {
        return Err(BadBinary::DoesNotRun(format!("`{word}` ended with {status}")));
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

async fn spawn(path: &Path, word: &str) -> io::Result<tokio::process::Child> {
    for _ in 0..BUSY_TRIES {
        let mut command = Command::new(path);
        command.arg(word).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        match command.kill_on_drop(true).spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => tokio::time::sleep(BUSY_PAUSE).await,
            other => return other,
        }
    }
    Err(io::ErrorKind::ExecutableFileBusy.into())
}

/// Puts a copy of a file where a node is started from, in one step: who starts that meanwhile gets one or the other,
/// whole. The place keeps its permissions.
pub fn install(from: &Path, at: &Path) -> Result<(), DiskError> {
    let unfinished = Unfinished::beside(at);
    let copy = |path: &Path| {
        fs::copy(from, path)?;
        let mode = fs::metadata(at).map_or(0o755, |meta| meta.permissions().mode());
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        File::open(path)?.sync_all()
    };
    copy(unfinished.path()).map_err(DiskError::at("replace", at))?;
    unfinished.finish(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_file_that_is_slow_to_say_what_it_is_is_not_called_bad() {
        let dir = tempfile::tempdir().unwrap();
        let slow = put(dir.path(), "slow", b"#!/bin/sh\nexec sleep 60\n");
        let said = says(&slow, "--version", Duration::from_millis(20)).await;
        assert!(matches!(said, Err(BadBinary::Late(_))), "{said:?}");
    }

    #[test]
    fn a_binary_is_kept_only_when_it_is_whole_and_right() {
        let dir = tempfile::tempdir().unwrap();
        let binaries = Binaries::open(dir.path().join("binaries")).unwrap();
        let sha = Sha256(sha2::Sha256::digest(b"content").into());
        let mut half = binaries.receive(100).unwrap();
        half.write(b"cont").unwrap();
        assert!(matches!(half.finish(sha), Err(BadBinary::Checksum { .. })));
        assert!(matches!(binaries.receive(3).unwrap().write(b"content"), Err(BadBinary::TooLarge { limit: 3 })));
        assert_eq!((binaries.path(sha), fs::read_dir(dir.path().join("binaries")).unwrap().count()), (None, 0));
        let mut whole = binaries.receive(100).unwrap();
        whole.write(b"content").unwrap();
        let path = whole.finish(sha).unwrap();
        assert_eq!((binaries.path(sha), digest(&path).unwrap()), (Some(path.clone()), sha));
        binaries.sweep(&[]).unwrap();
        assert!(path.exists(), "the newest few stay");
    }

    #[tokio::test]
    async fn what_is_no_neap_of_this_machine_is_told_by_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let told = async |path: &Path| check(path).await.unwrap_err().to_string();
        let script = put(dir.path(), "script", b"#!/bin/sh\necho neap 9\n");
        assert_eq!(told(&script).await, "it is no ELF file");
        let mut bytes = fs::read("/bin/true").unwrap();
        bytes[18..20].copy_from_slice(&[0xfe, 0xfe]);
        assert!(told(&put(dir.path(), "other", &bytes)).await.contains("another kind of machine"));
        let cut = put(dir.path(), "cut", &fs::read("/bin/true").unwrap()[..200]);
        assert!(told(&cut).await.contains("does not run"), "cut short");
        assert!(told(Path::new("/bin/false")).await.contains("does not run"));
        let said = told(Path::new("/bin/true")).await;
        assert!(said.contains("it is not neap"), "{said}");
    }

    #[test]
    fn the_place_gets_the_new_file_in_one_step_and_keeps_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let (new, at) = (put(dir.path(), "new", b"new"), put(dir.path(), "neap", b"old"));
        fs::set_permissions(&at, fs::Permissions::from_mode(0o711)).unwrap();
        let open = File::open(&at).unwrap();
        install(&new, &at).unwrap();
        assert_eq!(fs::read(&at).unwrap(), b"new");
        assert_eq!(fs::metadata(&at).unwrap().permissions().mode() & 0o777, 0o711);
        assert_eq!(io::read_to_string(open).unwrap(), "old", "who runs the old one has it still");
        let error = install(&new, Path::new("/proc/neap")).unwrap_err().to_string();
        assert!(error.contains("cannot replace /proc/neap"), "{error}");
    }
}
