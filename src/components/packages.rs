//! Owns what Debian's package manager has on record: which package a file is of, and which version of it is installed.
//! Reads its files as they are; a machine without them has no packages. Must not know why a file is asked about.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::{Budget, file};
use crate::domain::components::{Disk, Unread};

const STATUS: &str = "var/lib/dpkg/status";
const INFO: &str = "var/lib/dpkg/info";
const DIVERSIONS: &str = "var/lib/dpkg/diversions";
/// Directories that have become links into /usr, while lists still have their old names.
const MERGED: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
/// Paths that are remembered; with more, all are forgotten.
const REMEMBERED_MAX: usize = 50_000;
/// A diversion that no package made.
const LOCAL: &str = ":";

/// An installed package.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Package {
    /// With its architecture where that is not the machine's own.
    pub name: String,
    pub version: Option<String>,
}

/// The records, as far as they were asked for.
#[derive(Debug)]
pub struct Packages {
    root: PathBuf,
    stamp: Vec<Option<Disk>>,
    /// By name, and by "name:architecture".
    versions: HashMap<String, String>,
    architecture: String,
    diversions: Vec<Diversion>,
    merged: Vec<&'static str>,
    owners: HashMap<String, Option<Package>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Diversion {
    from: String,
    to: String,
    by: String,
}

/// Who may be the owner of a path that a list names.
struct Question {
    path: String,
    only: Option<String>,
    not: Option<String>,
}

impl Packages {
    /// The records of the machine whose files are below `root`.
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            stamp: Vec::new(),
            versions: HashMap::new(),
            architecture: String::new(),
            diversions: Vec::new(),
            merged: Vec::new(),
            owners: HashMap::new(),
        }
    }

    /// Looks up the owners of these paths; what was looked up before and has not changed since is not looked up again.
    pub fn learn(&mut self, paths: &BTreeSet<String>, budget: &Budget) -> Option<Unread> {
        self.refresh(budget.limits.file_size);
        let new: Vec<&String> = paths.iter().filter(|path| !self.owners.contains_key(*path)).collect();
        if new.is_empty() || self.versions.is_empty() {
            return None;
        }
        let mut questions: HashMap<String, Vec<Question>> = HashMap::new();
        for path in &new {
            for (listed, question) in self.questions(path) {
                questions.entry(listed).or_default().push(question);
            }
        }
        let mut found = HashMap::new();
        let searched = self.search(&questions, &mut found, budget);
        match searched {
            Ok(()) => self.owners.extend(new.iter().map(|path| ((*path).clone(), found.remove(*path)))),
            // What was found is so; of the rest nothing is known, and it is looked for again.
            Err(_) => self.owners.extend(found.into_iter().map(|(path, package)| (path, Some(package)))),
        }
        searched.err().map(|why| Unread { what: file::text(&self.root.join(INFO)), why })
    }

    /// Whether it is known if a path has an owner.
    pub fn is_known(&self, path: &str) -> bool {
        self.versions.is_empty() || self.owners.contains_key(path)
    }

    /// The owner of a path that was learned.
    pub fn owner(&self, path: &str) -> Option<&Package> {
        self.owners.get(path)?.as_ref()
    }

    /// An installed package by its name.
    pub fn named(&mut self, name: &str, limit: u64) -> Option<Package> {
        self.refresh(limit);
        let version = self.versions.get(name)?;
        Some(Package { name: name.to_owned(), version: Some(version.clone()) })
    }

    /// Forgets everything if anything has changed.
    fn refresh(&mut self, limit: u64) {
        let stamp: Vec<Option<Disk>> =
            [STATUS, INFO, DIVERSIONS].iter().map(|path| file::disk(&self.root.join(path))).collect();
        if self.owners.len() > REMEMBERED_MAX {
            self.owners.clear();
        }
        if stamp == self.stamp {
            return;
        }
        self.stamp = stamp;
        self.owners.clear();
        self.read_status(limit);
        self.diversions = self.read_diversions(limit);
        let is_link = |dir: &&str| self.root.join(&dir[1..]).is_symlink();
        self.merged = MERGED.into_iter().filter(|dir| is_link(dir)).collect();
    }

    /// Stanzas with an empty line between them (deb-status(5)).
    fn read_status(&mut self, limit: u64) {
        self.versions.clear();
        let Ok((status, _)) = file::open(&self.root.join(STATUS)) else { return };
        let (mut name, mut architecture, mut version, mut installed) = Default::default();
        let lines = BufReader::new(status.take(limit)).lines().map_while(Result::ok);
        for line in lines.chain([String::new()]) {
            match line.split_once(": ") {
                Some(("Package", value)) => name = value.to_owned(),
                Some(("Architecture", value)) => architecture = value.to_owned(),
                Some(("Version", value)) => version = value.to_owned(),
                Some(("Status", value)) => installed = value.ends_with(" installed"),
                _ if line.is_empty() => {
                    let (name, architecture) = (std::mem::take(&mut name), std::mem::take(&mut architecture));
                    let version = std::mem::take(&mut version);
                    if std::mem::take(&mut installed) && !name.is_empty() {
                        self.note(&name, &architecture, version);
                    }
                }
                _ => {}
            }
        }
    }

    fn note(&mut self, name: &str, architecture: &str, version: String) {
        if name == "dpkg" {
            architecture.clone_into(&mut self.architecture);
        }
        self.versions.insert(format!("{name}:{architecture}"), version.clone());
        self.versions.entry(name.to_owned()).or_insert(version);
    }

    /// Three lines each: the path, where it went, and who wanted that.
    fn read_diversions(&self, limit: u64) -> Vec<Diversion> {
        let text = file::read_text(&self.root.join(DIVERSIONS), limit).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let owned = |triple: &[&str]| Diversion { from: triple[0].into(), to: triple[1].into(), by: triple[2].into() };
        lines.chunks_exact(3).map(owned).collect()
    }

    /// What lists may call a path, and who counts as its owner then.
    fn questions(&self, path: &str) -> Vec<(String, Question)> {
        let names = self.names(path);
        let question = |only: Option<&str>, not: Option<&str>| {
            let owned = |name: Option<&str>| name.map(str::to_owned);
            Question { path: path.to_owned(), only: owned(only), not: owned(not) }
        };
        if let Some(diverted) = self.diversions.iter().find(|one| names.contains(&one.to)) {
            let not = Some(diverted.by.as_str()).filter(|by| *by != LOCAL);
            return self.names(&diverted.from).into_iter().map(|name| (name, question(None, not))).collect();
        }
        let diverted = self.diversions.iter().find(|one| names.contains(&one.from));
        let only = diverted.map(|one| one.by.as_str());
        names.into_iter().map(|name| (name, question(only, None))).collect()
    }

    /// A path with and without /usr, where that is the same.
    fn names(&self, path: &str) -> Vec<String> {
        let mut names = vec![path.to_owned()];
        let below = |dir: &&&str, path: &str| path.strip_prefix(**dir).is_some_and(|rest| rest.starts_with('/'));
        if let Some(rest) = path.strip_prefix("/usr").filter(|rest| self.merged.iter().any(|dir| below(&dir, rest))) {
            names.push(rest.to_owned());
        } else if self.merged.iter().any(|dir| below(&dir, path)) {
            names.push(format!("/usr{path}"));
        }
        names
    }

    fn search(
        &self,
        questions: &HashMap<String, Vec<Question>>,
        found: &mut HashMap<String, Package>,
        budget: &Budget,
    ) -> Result<(), String> {
        let lists = fs::read_dir(self.root.join(INFO)).map_err(|error| error.to_string())?;
        let mut lists: Vec<PathBuf> = lists.flatten().map(|entry| entry.path()).collect();
        lists.retain(|path| path.extension().is_some_and(|extension| extension == "list"));
        lists.sort();
        for list in lists {
            budget.time()?;
            let Some(full) = list.file_stem().map(|stem| stem.to_string_lossy().into_owned()) else { continue };
            let (name, architecture) = full.split_once(':').unwrap_or((&full, ""));
            let Ok((file, _)) = file::open(&list) else { continue };
            let mut text = Vec::new();
            // One that cannot be read to its end is read as far as it goes.
            let _ = file.take(budget.limits.file_size).read_to_end(&mut text);
            for line in String::from_utf8_lossy(&text).lines() {
                for question in questions.get(line).into_iter().flatten() {
                    let may = question.only.as_deref().is_none_or(|only| only == name);
                    if may && question.not.as_deref() != Some(name) {
                        let package = || self.package(name, architecture, &full);
                        found.entry(question.path.clone()).or_insert_with(package);
                    }
                }
            }
        }
        Ok(())
    }

    fn package(&self, name: &str, architecture: &str, full: &str) -> Package {
        let own = architecture.is_empty() || architecture == self.architecture;
        let version = self.versions.get(full).cloned();
        Package { name: if own { name } else { full }.to_owned(), version }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::components::Limits;

    const STATUS_TEXT: &str = "Package: dpkg\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.21\n\n\
        Package: libssl3\nStatus: install ok installed\nArchitecture: amd64\nVersion: 3.0.15-1\nDescription: x\n Version: 9\n\n\
        Package: libssl3\nStatus: install ok installed\nArchitecture: i386\nVersion: 3.0.14-1\n\n\
        Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n\
        Package: dash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 0.5\n\n\
        Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2";

    fn machine() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put(STATUS, STATUS_TEXT);
        put("var/lib/dpkg/info/libssl3:amd64.list", "/.\n/usr/lib/x86_64-linux-gnu/libssl.so.3\n");
        put("var/lib/dpkg/info/libssl3:i386.list", "/.\n/usr/lib/i386-linux-gnu/libssl.so.3\n");
        put("var/lib/dpkg/info/bash.list", "/.\n/bin/bash\n/bin/sh\n");
        put("var/lib/dpkg/info/dash.list", "/bin/sh\n/bin/dash\n");
        put(DIVERSIONS, "/bin/sh\n/bin/sh.distrib\ndash\n/usr/bin/local\n/usr/bin/local.real\n:\n");
        put("var/lib/dpkg/info/coreutils.list", "/usr/bin/local\n/usr/local\n");
        std::os::unix::fs::symlink("usr/bin", dir.path().join("bin")).unwrap();
        dir
    }

    fn owners(packages: &mut Packages, paths: &[&str]) -> Vec<String> {
        let learned = paths.iter().map(|path| (*path).to_owned()).collect();
        assert_eq!(packages.learn(&learned, &Budget::new(Limits::default())), None);
        let told = |package: &Package| format!("{} {}", package.name, package.version.as_deref().unwrap_or("-"));
        paths.iter().map(|path| packages.owner(path).map_or("-".to_owned(), told)).collect()
    }

    #[test]
    fn a_file_is_of_the_package_whose_list_names_it_by_either_of_its_names() {
        let machine = machine();
        let mut packages = Packages::at(machine.path());
        let ssl = "/usr/lib/x86_64-linux-gnu/libssl.so.3";
        assert_eq!(
            owners(&mut packages, &[ssl, "/usr/lib/i386-linux-gnu/libssl.so.3", "/usr/bin/bash", "/opt/x"]),
            ["libssl3 3.0.15-1", "libssl3:i386 3.0.14-1", "bash 5.2", "-"]
        );
        assert_eq!(packages.named("libssl3", 1 << 20).unwrap().version.unwrap(), "3.0.15-1");
        assert_eq!(packages.named("gone", 1 << 20), None);
    }

    #[test]
    fn a_diverted_file_is_of_who_diverted_it_and_the_other_of_who_had_it() {
        let machine = machine();
        let mut packages = Packages::at(machine.path());
        let paths = ["/usr/bin/sh", "/usr/bin/sh.distrib", "/usr/bin/local", "/usr/bin/local.real"];
        assert_eq!(owners(&mut packages, &paths), ["dash 0.5", "bash 5.2", "-", "coreutils -"]);
    }

    #[test]
    fn an_upgraded_package_is_looked_up_again() {
        let machine = machine();
        let mut packages = Packages::at(machine.path());
        assert_eq!(owners(&mut packages, &["/usr/bin/dash"]), ["dash 0.5"]);
        fs::write(machine.path().join(STATUS), STATUS_TEXT.replace("0.5", "0.5.12")).unwrap();
        assert_eq!(owners(&mut packages, &["/usr/bin/dash"]), ["dash 0.5.12"]);
    }

    #[test]
    fn what_was_not_looked_up_in_time_is_not_taken_for_nobodys() {
        let machine = machine();
        let mut packages = Packages::at(machine.path());
        let wanted = BTreeSet::from(["/usr/bin/dash".to_owned()]);
        let late = Budget::new(Limits { time: std::time::Duration::ZERO, ..Limits::default() });
        assert!(packages.learn(&wanted, &late).unwrap().why.contains("component_time"));
        assert!(!packages.is_known("/usr/bin/dash"));
        assert_eq!(owners(&mut packages, &["/usr/bin/dash"]), ["dash 0.5"]);
    }

    #[test]
    fn a_machine_without_a_package_manager_has_no_packages() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(owners(&mut Packages::at(dir.path()), &["/usr/bin/dash"]), ["-"]);
    }
}
