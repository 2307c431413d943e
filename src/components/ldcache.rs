//! Owns the loader's cache, `/etc/ld.so.cache`: which file each library's name stands for.
//! Must not know whether such a file fits who asks for it.

use std::collections::HashMap;
use std::path::Path;

use super::file;

const OLD: &[u8] = b"ld.so-1.7.0";
const OLD_HEADER: usize = 16;
const OLD_ENTRY: usize = 12;
const NEW: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
const BYTES_MAX: u64 = 64 << 20;
const ENTRIES_MAX: usize = 1 << 20;
const STRING_BYTES_MAX: usize = 4096;

/// Library's name → files, in the cache's order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LdCache {
    files: HashMap<String, Vec<String>>,
}

impl LdCache {
    /// Reads a cache; a machine without one has none.
    pub fn read(path: &Path) -> Result<Self, String> {
        let (file, size) = match file::open(path) {
            Ok((file, meta)) if meta.len() <= BYTES_MAX => (file, meta.len() as usize),
            Ok((_, meta)) => return Err(format!("it has {} bytes; at most {BYTES_MAX} are read", meta.len())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error.to_string()),
        };
        let bytes = file::read_at(&file, 0, size).map_err(|error| error.to_string())?;
        Self::parse(&bytes).ok_or_else(|| "it is no cache of the loader, or is cut short".to_owned())
    }

    /// The format of glibc 2.2 and later, which may follow that of before it (glibc's sysdeps/generic/dl-cache.h).
    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = match bytes.starts_with(OLD) {
            true => {
                let entries = word(bytes, 12)?.checked_mul(OLD_ENTRY)?.checked_add(OLD_HEADER)?;
                bytes.get(entries.checked_next_multiple_of(8)?..)?
            }
            false => bytes,
        };
        let count = word(bytes, NEW.len()).filter(|_| bytes.starts_with(NEW))?.min(ENTRIES_MAX);
        let mut files: HashMap<String, Vec<String>> = HashMap::new();
        for index in 0..count {
            let entry = HEADER + index * ENTRY;
            let (name, path) = (string(bytes, word(bytes, entry + 4)?)?, string(bytes, word(bytes, entry + 8)?)?);
            let of_name = files.entry(name).or_default();
            if !of_name.contains(&path) {
                of_name.push(path);
            }
        }
        Some(Self { files })
    }

    /// The files of a name that this processor can use, the best build first.
    pub fn files(&self, name: &str, hwcaps: &[String]) -> Vec<String> {
        let rank = |path: &String| {
            let Some(at) = path.find("/glibc-hwcaps/") else { return Some(hwcaps.len()) };
            let level = path[at + 1..].rsplit_once('/')?.0;
            hwcaps.iter().position(|hwcap| hwcap == level)
        };
        let all = self.files.get(name).into_iter().flatten();
        let mut ranked: Vec<(usize, &String)> = all.filter_map(|path| Some((rank(path)?, path))).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, path)| path.clone()).collect()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(u32::from_ne_bytes(word) as usize)
}

fn string(bytes: &[u8], at: usize) -> Option<String> {
    let rest = bytes.get(at..)?;
    let rest = &rest[..rest.len().min(STRING_BYTES_MAX)];
    let end = rest.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(&rest[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache of these names and files.
    fn cache(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = NEW.to_vec();
        bytes.extend((entries.len() as u32).to_ne_bytes());
        bytes.resize(HEADER, 0);
        let (mut strings, base) = (Vec::new(), HEADER + entries.len() * ENTRY);
        for (name, path) in entries {
            let mut place = |text: &str| {
                let at = (base + strings.len()) as u32;
                strings.extend(text.bytes().chain([0]));
                at.to_ne_bytes()
            };
            let (name, path) = (place(name), place(path));
            bytes.extend(0x0303_u32.to_ne_bytes().into_iter().chain(name).chain(path).chain([0; 12]));
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn a_name_stands_for_the_files_that_the_processor_can_use() {
        let v3 = "/usr/lib/glibc-hwcaps/x86-64-v3/liba.so.1";
        let bytes = cache(&[("liba.so.1", "/usr/lib/liba.so.1"), ("liba.so.1", v3), ("libb.so", "/b")]);
        let cache = LdCache::parse(&bytes).unwrap();
        assert_eq!(cache.files("liba.so.1", &[]), ["/usr/lib/liba.so.1"]);
        assert_eq!(cache.files("liba.so.1", &["glibc-hwcaps/x86-64-v3".into()]), [v3, "/usr/lib/liba.so.1"]);
        assert_eq!(cache.files("libc", &[]), [""; 0]);
    }

    #[test]
    fn the_older_format_may_come_first() {
        let mut bytes = OLD.to_vec();
        bytes.resize(12, 0);
        bytes.extend(1_u32.to_ne_bytes());
        bytes.resize(32, 0);
        bytes.extend(cache(&[("libb.so", "/b")]));
        assert_eq!(LdCache::parse(&bytes).unwrap().files("libb.so", &[]), ["/b"]);
    }

    #[test]
    fn a_cache_cut_anywhere_or_with_wild_offsets_is_refused_and_never_panics() {
        let whole = cache(&[("liba.so.1", "/usr/lib/liba.so.1"), ("libb.so", "/b")]);
        for end in 0..whole.len() {
            assert_eq!(LdCache::parse(&whole[..end]), None, "{end}");
        }
        for at in 0..whole.len() {
            let mut wild = whole.clone();
            wild[at] = 0xff;
            let _ = LdCache::parse(&wild);
        }
        assert_eq!(LdCache::parse(OLD), None);
    }

    #[test]
    fn this_machines_own_cache_has_the_c_library() {
        let cache = LdCache::read(Path::new("/etc/ld.so.cache")).unwrap();
        assert!(cache.files.is_empty() || !cache.files("libc.so.6", &[]).is_empty());
        assert_eq!(LdCache::read(Path::new("/nonexistent")).unwrap(), LdCache::default());
    }
}
