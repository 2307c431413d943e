//! Owns what an instance finds around it: its directories, its environment, its command line.
//! Must not know processes: it only says what one would get.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::disk::DiskError;
use super::instance::VARIABLE;
use super::session_url::SessionUrl;
use crate::domain::manifest::{Facts, substitute, variable_problem};
use crate::domain::names::{NodeName, ProgramName};
use crate::domain::program::{Kind, Manifest, Process};

const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const LANG_DEFAULT: &str = "C.UTF-8";
const ENV_FILE_BYTES_MAX: u64 = 256 * 1024;

/// Where a node keeps what its instances use. `data_dir` and `binary` are absolute.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The neap binary, which is also the launcher and the server of static files.
    pub binary: PathBuf,
    pub node: NodeName,
    pub data_dir: PathBuf,
    /// Where programs find the data of their sessions.
    pub sessions: Option<SessionUrl>,
}

#[derive(Debug, thiserror::Error)]
pub enum SurroundingsError {
    #[error("env_file {}: {why}", path.display())]
    EnvFile { path: PathBuf, why: String },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A command, ready to be run.
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    pub argv: Vec<String>,
    /// All of the environment.
    pub env: BTreeMap<String, String>,
    pub dir: PathBuf,
}

impl std::fmt::Debug for Command {
    /// Without the environment's values: some are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Command").field("argv", &self.argv).field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Surroundings {
    /// `{data}`: a program's own directory, which outlives its versions.
    pub fn data(&self, program: &ProgramName) -> PathBuf {
        self.data_dir.join("data").join(program.as_str())
    }

    /// Where the output of all programs goes, a directory each (`output::tend`).
    pub fn all_logs(&self) -> PathBuf {
        self.data_dir.join("logs")
    }

    /// Where the output of a program's instances goes.
    pub fn logs(&self, program: &ProgramName) -> PathBuf {
        self.all_logs().join(program.as_str())
    }

    /// The file that one instance's output goes to.
    pub fn log(&self, program: &ProgramName, instance: &str) -> PathBuf {
        self.logs(program).join(format!("{instance}.log"))
    }

    /// Makes the directories that a program's instances need.
    pub fn make_dirs(&self, program: &ProgramName) -> Result<(), DiskError> {
        for dir in [self.data(program), self.logs(program)] {
            fs::create_dir_all(&dir).map_err(DiskError::at("create", &dir))?;
            let private = fs::Permissions::from_mode(0o700);
            fs::set_permissions(&dir, private).map_err(DiskError::at("protect", &dir))?;
        }
        Ok(())
    }

    /// The command of an instance of the release unpacked at `dir`.
    pub fn command(
        &self,
        manifest: &Manifest,
        dir: &Path,
        instance: &str,
        port: u16,
    ) -> Result<Command, SurroundingsError> {
        let facts = self.facts(manifest, dir, port.to_string());
        let (argv, mut env) = match &manifest.kind {
            Kind::Process(process) => (words(&process.command, &facts), self.own_env(manifest, process, &facts)?),
            Kind::Static(files) => {
                let root = dir.join(&files.root).display().to_string();
                let binary = self.binary.display().to_string();
                let mut argv =
                    [&binary, "serve-static", "--root", &root, "--port", &facts.port].map(str::to_owned).to_vec();
                argv.extend(files.spa.then(|| "--spa".to_owned()));
                (argv, self.base_env(manifest))
            }
            // Its commands are errands; nothing of it is launched.
            Kind::External(external) => (words(&external.start, &facts), self.base_env(manifest)),
        };
        env.insert("PORT".into(), facts.port);
        env.insert(VARIABLE.into(), instance.to_owned());
        if let Some(sessions) = &self.sessions {
            env.insert("NEAP_SESSION_URL".into(), sessions.of(&manifest.name, instance));
        }
        Ok(Command { argv, env, dir: dir.to_owned() })
    }

    /// The command that prepares a release; `None` when there is nothing to prepare.
    pub fn prepare(&self, manifest: &Manifest, dir: &Path) -> Result<Option<Command>, SurroundingsError> {
        let Kind::Process(process) = &manifest.kind else { return Ok(None) };
        if process.prepare.is_empty() {
            return Ok(None);
        }
        self.errand(manifest, dir, &process.prepare).map(Some)
    }

    /// A command that goes with the program, and is no instance of it.
    pub fn errand(&self, manifest: &Manifest, dir: &Path, argv: &[String]) -> Result<Command, SurroundingsError> {
        let facts = self.facts(manifest, dir, "0".to_owned());
        let env = match &manifest.kind {
            Kind::Process(process) => self.own_env(manifest, process, &facts)?,
            Kind::Static(_) | Kind::External(_) => self.base_env(manifest),
        };
        Ok(Command { argv: words(argv, &facts), env, dir: dir.to_owned() })
    }

    fn facts(&self, manifest: &Manifest, dir: &Path, port: String) -> Facts {
        Facts {
            port,
            dir: dir.display().to_string(),
            data: self.data(&manifest.name).display().to_string(),
            version: manifest.version.to_string(),
            node: self.node.to_string(),
        }
    }

    /// What every instance gets. Nothing of the node's own environment but PATH and LANG.
    fn base_env(&self, manifest: &Manifest) -> BTreeMap<String, String> {
        let from_node = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        BTreeMap::from([
            ("HOME".to_owned(), self.data(&manifest.name).display().to_string()),
            ("PATH".to_owned(), from_node("PATH", PATH_DEFAULT)),
            ("LANG".to_owned(), from_node("LANG", LANG_DEFAULT)),
            ("NEAP_PROGRAM".to_owned(), manifest.name.to_string()),
            ("NEAP_VERSION".to_owned(), manifest.version.to_string()),
            ("NEAP_NODE".to_owned(), self.node.to_string()),
        ])
    }

    /// The base, then `env`, then `env_file`: the later wins, but none can set neap's own variables.
    fn own_env(
        &self,
        manifest: &Manifest,
        process: &Process,
        facts: &Facts,
    ) -> Result<BTreeMap<String, String>, SurroundingsError> {
        let mut env = self.base_env(manifest);
        env.extend(process.env.iter().map(|(name, value)| (name.clone(), substitute(value, facts))));
        if let Some(path) = &process.env_file {
            env.extend(read_env_file(Path::new(path))?);
        }
        Ok(env)
    }
}

fn words(argv: &[String], facts: &Facts) -> Vec<String> {
    argv.iter().map(|word| substitute(word, facts)).collect()
}

/// Reads `NAME=value` lines; `#` begins a comment line; one pair of quotes around a value is taken off. The file is ours
/// (or root's) and nobody else may read it.
fn read_env_file(path: &Path) -> Result<BTreeMap<String, String>, SurroundingsError> {
    let bad = |why: String| SurroundingsError::EnvFile { path: path.to_owned(), why };
    let unreadable = |error: io::Error| bad(format!("cannot be read: {error}"));
    let file = fs::File::open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(bad("is not a file".into()));
    }
    if meta.permissions().mode() & 0o177 != 0 {
        let mode = meta.permissions().mode() & 0o7777;
        return Err(bad(format!("its mode is {mode:04o}: others could read it; run `chmod 600` on it")));
    }
    if meta.uid() != 0 && meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(bad("belongs to another user".into()));
    }
    let mut text = String::new();
    file.take(ENV_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > ENV_FILE_BYTES_MAX {
        return Err(bad(format!("is larger than {ENV_FILE_BYTES_MAX} bytes")));
    }
    parse_env(&text).map_err(bad)
}

fn parse_env(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut env = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // The line itself is never shown: it may be a secret.
        let line_number = index + 1;
        let (name, value) = line.split_once('=').ok_or(format!("line {line_number} is not NAME=value"))?;
        let name = name.strip_prefix("export ").unwrap_or(name).trim();
        if let Some(problem) = variable_problem(name) {
            return Err(format!("line {line_number}: {problem}"));
        }
        let value = value.trim();
        if value.contains('\0') {
            return Err(format!("line {line_number}: a value cannot hold a NUL"));
        }
        let unquoted = ['"', '\''].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q));
        env.insert(name.to_owned(), unquoted.unwrap_or(value).to_owned());
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_env_file_is_lines_of_name_and_value() {
        let env = parse_env("# c\n\nA=1\nexport B = \"x y\"\nC='='\nD=a=b\n").unwrap();
        assert_eq!(
            env.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(),
            ["A=1", "B=x y", "C==", "D=a=b"]
        );
        assert_eq!(parse_env("A=1\nsecret").unwrap_err(), "line 2 is not NAME=value");
        assert!(parse_env("NEAP_NODE=x").unwrap_err().contains("set by neap itself"));
    }

    #[test]
    fn an_env_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets");
        fs::write(&path, "A=1").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read_env_file(&path).unwrap_err().to_string().contains("its mode is 0640"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read_env_file(&path).unwrap()["A"], "1");
        assert!(read_env_file(dir.path()).unwrap_err().to_string().contains("not a file"));
    }
}
