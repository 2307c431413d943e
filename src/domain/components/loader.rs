//! Owns the search rules of the dynamic loader (ld.so(8)): where a needed library is looked for, in which order, and by
//! which rule each place is one. Must not know files: it only says which paths to try.

use super::How;

/// Directories of one variable or one entry that are looked at.
const DIRS_MAX: usize = 128;

/// What an ELF file says of its own search.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Search {
    pub rpath: Vec<String>,
    pub runpath: Vec<String>,
    /// DF_1_NODEFLIB: neither the cache's default directories nor they themselves.
    pub no_default: bool,
}

/// A file that has been loaded, as far as the search goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// The directory that it lies in: `$ORIGIN`.
    pub origin: String,
    pub search: Search,
}

/// What is the same for all that a process loads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// LD_LIBRARY_PATH, as it is in the environment.
    pub library_path: Option<String>,
    /// Where the process is started, for relative paths.
    pub dir: String,
    /// `$LIB` and `$PLATFORM`.
    pub lib: String,
    pub platform: String,
    /// Of the default directories, in order.
    pub defaults: Vec<String>,
    /// Below every directory, these are tried first: "glibc-hwcaps/x86-64-v3".
    pub hwcaps: Vec<String>,
}

/// One place to look at, and the rule that it is one by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    pub path: String,
    pub how: How,
}

impl Rules {
    /// Where `needed` is looked for, in order. `chain` is who needs it, then who needed that, up to the executable.
    /// `cached` is what the loader's cache has under that name, best first.
    pub fn candidates(&self, needed: &str, chain: &[&Loaded], cached: &[String]) -> Vec<Candidate> {
        let Some(requester) = chain.first() else { return Vec::new() };
        if needed.contains('/') {
            let path = absolute(&self.dir, &self.expand(needed, &requester.origin));
            return vec![Candidate { path, how: How::Path }];
        }
        let mut found = self.by_rpath(needed, requester, chain);
        let executable = chain.last().unwrap_or(requester);
        let variable = self.library_path.as_deref().filter(|path| !path.is_empty());
        for dir in variable.into_iter().flat_map(|path| path.split([':', ';'])).take(DIRS_MAX) {
            found.extend(self.within(&self.expand(dir, &executable.origin), needed, How::LibraryPath));
        }
        for dir in split(&requester.search.runpath) {
            found.extend(self.within(&self.expand(&dir, &requester.origin), needed, How::Runpath));
        }
        let hidden = |path: &str| requester.search.no_default && self.is_default(path);
        let cached = cached.iter().filter(|path| !hidden(path));
        found.extend(cached.map(|path| Candidate { path: path.clone(), how: How::Cache }));
        for dir in self.defaults.iter().filter(|_| !requester.search.no_default) {
            found.extend(self.within(dir, needed, How::DefaultDir));
        }
        found
    }

    /// A requester with a runpath has no rpath, its own or inherited.
    fn by_rpath(&self, needed: &str, requester: &Loaded, chain: &[&Loaded]) -> Vec<Candidate> {
        let asked = chain.iter().filter(|_| requester.search.runpath.is_empty());
        let mut found = Vec::new();
        for loaded in asked.filter(|loaded| loaded.search.runpath.is_empty()) {
            for dir in split(&loaded.search.rpath) {
                found.extend(self.within(&self.expand(&dir, &loaded.origin), needed, How::Rpath));
            }
        }
        found
    }

    fn within(&self, dir: &str, needed: &str, how: How) -> impl Iterator<Item = Candidate> {
        let dir = absolute(&self.dir, dir);
        let better = self.hwcaps.iter().map(|hwcap| format!("{dir}/{hwcap}/{needed}"));
        let paths: Vec<String> = better.chain([format!("{dir}/{needed}")]).collect();
        paths.into_iter().map(move |path| Candidate { path, how })
    }

    fn is_default(&self, path: &str) -> bool {
        let below = |dir: &String| path.strip_prefix(dir.as_str()).is_some_and(|rest| rest.starts_with('/'));
        self.defaults.iter().any(below)
    }

    /// Replaces `$ORIGIN`, `$LIB` and `$PLATFORM`, with or without braces.
    fn expand(&self, path: &str, origin: &str) -> String {
        let tokens = [("ORIGIN", origin), ("LIB", &self.lib), ("PLATFORM", &self.platform)];
        let (mut expanded, mut rest) = (String::new(), path);
        while let Some(at) = rest.find('$') {
            expanded.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            let known = tokens.iter().find_map(|(name, value)| Some((*value, token(after, name)?)));
            match known {
                Some((value, left)) => {
                    expanded.push_str(value);
                    rest = left;
                }
                None => {
                    expanded.push('$');
                    rest = after;
                }
            }
        }
        expanded + rest
    }
}

/// What follows a token, in either of its forms; `None`: it is another one.
fn token<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    if let Some(braced) = text.strip_prefix('{') {
        return braced.strip_prefix(name)?.strip_prefix('}');
    }
    let rest = text.strip_prefix(name)?;
    let goes_on = rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    (!goes_on).then_some(rest)
}

fn split(entries: &[String]) -> Vec<String> {
    let dirs = entries.iter().filter(|entry| !entry.is_empty()).flat_map(|entry| entry.split(':'));
    dirs.take(DIRS_MAX).map(str::to_owned).collect()
}

/// A path from the root; an empty one is the directory itself.
fn absolute(dir: &str, path: &str) -> String {
    match path {
        "" => dir.to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("{dir}/{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            dir: "/r".into(),
            lib: "lib/x86_64-linux-gnu".into(),
            platform: "x86_64".into(),
            defaults: vec!["/lib".into(), "/usr/lib".into()],
            ..Rules::default()
        }
    }

    fn loaded(origin: &str, rpath: &[&str], runpath: &[&str]) -> Loaded {
        let owned = |dirs: &[&str]| dirs.iter().map(|dir| (*dir).to_owned()).collect();
        let search = Search { rpath: owned(rpath), runpath: owned(runpath), no_default: false };
        Loaded { origin: origin.into(), search }
    }

    fn tried(rules: &Rules, needed: &str, chain: &[&Loaded], cached: &[&str]) -> Vec<String> {
        let cached: Vec<String> = cached.iter().map(|path| (*path).to_owned()).collect();
        let candidates = rules.candidates(needed, chain, &cached);
        candidates.into_iter().map(|one| format!("{} {}", one.how, one.path)).collect()
    }

    #[test]
    fn the_places_come_in_the_order_of_the_loader() {
        let (lib, exe) = (loaded("/r/lib", &["$ORIGIN/own"], &[]), loaded("/r/bin", &["/exe"], &[]));
        let rules = Rules { library_path: Some("/env:;rel".into()), ..rules() };
        assert_eq!(
            tried(&rules, "liba.so", &[&lib, &exe], &["/cache/liba.so"]),
            [
                "rpath /r/lib/own/liba.so",
                "rpath /exe/liba.so",
                "LD_LIBRARY_PATH /env/liba.so",
                "LD_LIBRARY_PATH /r/liba.so",
                "LD_LIBRARY_PATH /r/rel/liba.so",
                "cache /cache/liba.so",
                "default directory /lib/liba.so",
                "default directory /usr/lib/liba.so",
            ]
        );
    }

    #[test]
    fn a_runpath_hides_every_rpath_and_helps_nobody_else() {
        let (lib, exe) = (loaded("/r/lib", &["/old"], &["${ORIGIN}/x:/y"]), loaded("/r/bin", &["/exe"], &[]));
        let first = tried(&rules(), "liba.so", &[&lib, &exe], &[]);
        assert_eq!(first[..2], ["runpath /r/lib/x/liba.so", "runpath /y/liba.so"]);
        // What the library needs further down is not looked for where its own parent's runpath says.
        let below = loaded("/r/lib/x", &[], &[]);
        assert!(tried(&rules(), "libb.so", &[&below, &lib, &exe], &[])[0] == "rpath /exe/libb.so");
    }

    #[test]
    fn tokens_are_replaced_in_both_forms_and_others_are_left() {
        let exe = loaded("/o", &[], &["$LIB/${PLATFORM}/$ORIGINAL/$", "${ORIGIN}"]);
        let tried = tried(&rules(), "l", &[&exe], &[]);
        assert_eq!(tried[0], "runpath /r/lib/x86_64-linux-gnu/x86_64/$ORIGINAL/$/l");
        assert_eq!(tried[1], "runpath /o/l");
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        let exe = loaded("/o", &["/x"], &[]);
        assert_eq!(tried(&rules(), "./l.so", &[&exe], &["/c/l.so"]), ["path /r/./l.so"]);
        assert_eq!(tried(&rules(), "$ORIGIN/l.so", &[&exe], &[]), ["path /o/l.so"]);
    }

    #[test]
    fn who_wants_no_default_directories_gets_none_of_the_cache_either() {
        let mut exe = loaded("/o", &[], &[]);
        exe.search.no_default = true;
        assert_eq!(tried(&rules(), "l", &[&exe], &["/lib/x/l", "/opt/l"]), ["cache /opt/l"]);
    }

    #[test]
    fn better_builds_for_the_processor_come_first() {
        let exe = loaded("/o", &[], &["/x"]);
        let rules = Rules { hwcaps: vec!["glibc-hwcaps/x86-64-v2".into()], ..rules() };
        let tried = tried(&rules, "l", &[&exe], &[]);
        assert_eq!(tried[..2], ["runpath /x/glibc-hwcaps/x86-64-v2/l", "runpath /x/l"]);
    }
}
