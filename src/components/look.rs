//! Owns one look at one program: from its command, its release and its processes to what it uses, with the evidence.
//! Must not know how often it looks, nor who is told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::closure::{Closure, Elfs, Entry, Root, link, real};
use super::command::{self, Way};
use super::ldcache::LdCache;
use super::maps::{self, Mapped};
use super::naming::{self, Namer, Versions};
use super::packages::Packages;
use super::{Budget, Limits, file, python, release};
use crate::domain::components::{
    Component, Disk, Evidence, FileId, Hop, How, Kind, Memory, Seen, Sighting, Source, Unread, Usage, compile,
};
use crate::domain::names::{ComponentName, ProgramName, Release};

const LD_CACHE: &str = "/etc/ld.so.cache";
/// Files of one instance that are remembered.
const SEEN_MAX: usize = 4_096;
/// What could not be read, of one program.
const UNREAD_MAX: usize = 32;
/// Releases whose libraries are remembered.
const RELEASES_MAX: usize = 1_024;

/// A program to look at: one instance of it.
#[derive(Clone, Debug)]
pub struct Subject {
    pub program: ProgramName,
    pub release: Release,
    pub instance: String,
    /// Where the release is unpacked.
    pub dir: PathBuf,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub declared: Vec<ComponentName>,
    /// Of all its processes.
    pub pids: Vec<u32>,
}

/// What a look found, and what is remembered of it for the next.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    pub usage: Usage,
    pub memory: Memory,
}

/// Looks at programs, and remembers what files are as long as they do not change.
pub struct Reader {
    neap: PathBuf,
    limits: Limits,
    elfs: Elfs,
    packages: Packages,
    versions: Versions,
    ld_cache: (Option<Disk>, LdCache),
    releases: HashMap<PathBuf, (Vec<PathBuf>, Option<String>)>,
}

/// What was found and is not named yet.
#[derive(Default)]
struct Found {
    files: Vec<(PathBuf, Evidence)>,
    /// Those that count only where a package has them: a component of its own would be none.
    packaged: Vec<(PathBuf, Evidence)>,
    unread: Vec<Unread>,
}

impl Reader {
    /// `neap`: the node's own binary.
    pub fn new(neap: &Path, limits: Limits) -> Self {
        Self {
            neap: real(neap),
            limits,
            elfs: Elfs::default(),
            packages: Packages::at(Path::new("/")),
            versions: Versions::new(),
            ld_cache: (None, LdCache::default()),
            releases: HashMap::new(),
        }
    }

    /// Looks at one program; `memory` is what was seen of it before.
    pub fn look(&mut self, subject: &Subject, memory: Memory) -> Look {
        let mut budget = Budget::new(self.limits);
        let mut found = Found::default();
        let ld_cache = self.read_ld_cache(&mut found);
        self.look_at_files(subject, &ld_cache, &mut budget, &mut found);
        self.ld_cache.1 = ld_cache;
        let (mapped, unread) = maps::look(&subject.pids);
        found.unread.extend(unread);
        let mut memory = memory.of(&subject.instance);
        self.learn(subject, &found, &mapped, &memory, &budget).into_iter().for_each(|why| found.unread.push(why));
        let mut namer = Namer {
            packages: &mut self.packages,
            elfs: &mut self.elfs,
            versions: &mut self.versions,
            neap: &self.neap,
            file_size: self.limits.file_size,
        };
        let seen = mapped.into_iter().filter_map(|(id, one)| seen(&mut namer, id, &one)).collect();
        let left_out = memory.take_in(seen, SEEN_MAX);
        if left_out > 0 {
            let why = format!("at most {SEEN_MAX} are kept of an instance");
            found.unread.push(Unread { what: format!("{left_out} more files in memory"), why });
        }
        let mut sightings = declared(&mut namer, &subject.declared);
        sightings.extend(observed(&mut namer, subject, &memory));
        sightings.extend(static_sightings(&mut namer, subject, &found));
        let compiled = compile(sightings, self.limits.components);
        found.unread.extend(compiled.unread);
        let (program, release) = (subject.program.clone(), subject.release.clone());
        let unread = told(found.unread);
        Look { usage: Usage { program, release, edges: compiled.edges, unread }, memory }
    }

    fn read_ld_cache(&mut self, found: &mut Found) -> LdCache {
        let path = Path::new(LD_CACHE);
        let (disk, cache) = std::mem::take(&mut self.ld_cache);
        let now = file::disk(path);
        self.ld_cache.0 = now;
        if disk == now {
            return cache;
        }
        LdCache::read(path).unwrap_or_else(|why| {
            found.unread.push(Unread { what: LD_CACHE.to_owned(), why });
            self.ld_cache.0 = None;
            LdCache::default()
        })
    }

    fn look_at_files(&mut self, subject: &Subject, cache: &LdCache, budget: &mut Budget, found: &mut Found) {
        let word = subject.argv.first().map(String::as_str).unwrap_or_default();
        let Way { files, ends, unread } = command::follow(word, &subject.dir, &subject.env, budget);
        found.unread.extend(unread);
        for on_the_way in &files {
            found.files.push((on_the_way.path.clone(), fixed(on_the_way.chain.clone(), false)));
        }
        let Some(executable) = files.last().filter(|_| ends) else { return };
        let own = self.own_libraries(&subject.dir, budget, found);
        let parts = (&mut self.elfs, cache, &mut *budget);
        let closure = Closure::of(&executable.path, &executable.chain, &subject.dir, &subject.env, parts);
        let mut closure = match closure {
            Ok(closure) => closure,
            Err(why) => return found.unread.push(Unread { what: file::text(&executable.path), why }),
        };
        let dir = &subject.dir;
        let python = python::look(&executable.path, &real(&executable.path), closure.budget);
        let base = python.as_ref().and_then(|python| python.base.as_ref()).map(|base| {
            let chain = link(&executable.chain, &command::shown(base, dir), How::Venv);
            closure.root(base, &chain, Root::Executable);
            chain
        });
        for path in &own {
            closure.root(path, &[Hop { name: command::shown(path, dir), how: How::Release }], Root::Library);
        }
        if let Some(python) = python {
            let chain = base.unwrap_or_else(|| executable.chain.clone());
            let module = |path: &Path| link(&chain, &command::shown(path, dir), How::Module);
            found.packaged.extend(python.library.iter().map(|path| (path.clone(), fixed(module(path), false))));
            // What is imported from an environment that is not the release's is known when it is seen.
            let outside = python.venv.iter().filter(|venv| !venv.starts_with(dir));
            let outside: Vec<_> = outside.flat_map(|venv| release::libraries(venv, closure.budget).0).collect();
            for path in python.modules.iter().chain(&outside) {
                closure.root(path, &module(path), Root::CanLoad);
            }
            found.unread.extend(python.unread.map(|why| Unread { what: "Python's modules".to_owned(), why }));
        }
        let Closure { entries, unread, .. } = closure;
        found.unread.extend(unread);
        for Entry { path, chain, can_load, .. } in entries {
            let module = chain.last().is_some_and(|hop| hop.how == How::Module);
            let list = if module { &mut found.packaged } else { &mut found.files };
            list.push((path, fixed(chain, can_load)));
        }
    }

    fn own_libraries(&mut self, dir: &Path, budget: &mut Budget, found: &mut Found) -> Vec<PathBuf> {
        if self.releases.len() >= RELEASES_MAX {
            self.releases.clear();
        }
        let (own, why) = self.releases.entry(dir.to_owned()).or_insert_with(|| release::libraries(dir, budget)).clone();
        if let Some(why) = why {
            // It may go better the next time.
            self.releases.remove(dir);
            found.unread.push(Unread { what: "all of the release".to_owned(), why });
        }
        own
    }

    /// Has the packages of all files looked up at once.
    fn learn(
        &mut self,
        subject: &Subject,
        found: &Found,
        mapped: &BTreeMap<FileId, Mapped>,
        memory: &Memory,
        budget: &Budget,
    ) -> Option<Unread> {
        let files = found.files.iter().chain(&found.packaged).map(|(path, _)| path.clone());
        let seen = mapped.values().map(on_disk);
        let before = memory.seen.iter().map(|seen| PathBuf::from(&seen.file));
        let declared = subject.declared.iter().map(|name| PathBuf::from(name.as_str()));
        let all = files.chain(seen).chain(before).chain(declared.filter(|path| path.is_absolute()));
        let paths: BTreeSet<PathBuf> = all.map(|path| real(&path)).collect();
        self.packages.learn(&paths.iter().flat_map(|path| naming::names(path)).collect(), budget)
    }
}

fn fixed(chain: Vec<Hop>, can_load: bool) -> Evidence {
    Evidence { source: Source::Static, can_load, chain }
}

fn declared(namer: &mut Namer<'_>, names: &[ComponentName]) -> Vec<Sighting> {
    let sighting = |name: &ComponentName| {
        let chain = vec![Hop { name: name.to_string(), how: How::Uses }];
        let evidence = Evidence { source: Source::Declared, can_load: false, chain };
        Sighting { component: namer.declared(name), file: None, evidence, stale: None }
    };
    names.iter().map(sighting).collect()
}

/// A file in memory, as it is to be remembered.
fn seen(namer: &mut Namer<'_>, id: FileId, mapped: &Mapped) -> Option<Seen> {
    let there = file::disk(&on_disk(mapped)).filter(|disk| disk.id.inode == id.inode && !mapped.deleted);
    let component = namer.component(&on_disk(mapped))?;
    let running = if there.is_some() { component.version.clone() } else { naming::running(&mapped.itself) };
    let (file, deleted) = (mapped.path.clone(), mapped.deleted);
    Some(Seen { file, id, component, then: there, running, mapped: true, deleted })
}

fn on_disk(mapped: &Mapped) -> PathBuf {
    PathBuf::from(format!("{}{}", mapped.root, mapped.path))
}

fn observed(namer: &mut Namer<'_>, subject: &Subject, memory: &Memory) -> Vec<Sighting> {
    let mut sightings = Vec::new();
    for seen in &memory.seen {
        let mut component: Component = seen.component.clone();
        component.version = namer.version_now(&component);
        let path = Path::new(component.name.as_str());
        let link = component.kind == Kind::File && path != Path::new(&seen.file) && path.is_file();
        let named = link.then(|| file::disk(path)).flatten();
        let stale = seen.judge(file::disk(Path::new(&seen.file)), named);
        if Path::new(&seen.file).starts_with(&subject.dir) && stale.is_none() {
            // It goes with the release.
            continue;
        }
        let chain = vec![Hop { name: seen.file.clone(), how: How::Mapped }];
        let evidence = Evidence { source: Source::Observed, can_load: false, chain };
        sightings.push(Sighting { component, file: Some(seen.file.clone()), evidence, stale });
    }
    sightings
}

fn static_sightings(namer: &mut Namer<'_>, subject: &Subject, found: &Found) -> Vec<Sighting> {
    let all = found.files.iter().map(|one| (one, false)).chain(found.packaged.iter().map(|one| (one, true)));
    let mut sightings = Vec::new();
    for ((path, evidence), packaged) in all {
        let real = real(path);
        if real.starts_with(&subject.dir) {
            continue;
        }
        let Some(component) = namer.component(&real) else { continue };
        if packaged && component.kind != Kind::Package {
            continue;
        }
        let evidence = evidence.clone();
        sightings.push(Sighting { component, file: Some(file::text(&real)), evidence, stale: None });
    }
    sightings
}

/// In order, each once, and not without end.
fn told(mut unread: Vec<Unread>) -> Vec<Unread> {
    unread.sort();
    unread.dedup();
    if unread.len() > UNREAD_MAX {
        let more = unread.len() - UNREAD_MAX;
        unread.truncate(UNREAD_MAX);
        unread
            .push(Unread { what: format!("{more} more files"), why: "of all of them there would be too many".into() });
    }
    unread
}
