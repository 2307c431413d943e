//! Owns the keys of sessions' tags as a node has them: made of the cluster's secret, else told by management; kept on disk,
//! so that a node that restarts alone knows its clients' tags. Must not know what a tag says.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use tracing::{info, warn};

use super::secret::Secret;
use crate::domain::session::{Key, Keys};
use crate::wire::messages::TagKeys as Told;

const FILE: &str = "tag-keys.json";
/// The number of the first key.
pub const FIRST: u32 = 1;

/// A node's keys; clones share them.
#[derive(Clone, Debug, Default)]
pub struct TagKeys(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    secret: Option<Secret>,
    file: Option<PathBuf>,
    told: Mutex<Option<Told>>,
    keys: ArcSwapOption<Keys>,
}

impl TagKeys {
    /// What the last run was told, or, with a secret, what everybody begins with.
    pub fn open(dir: &Path, secret: Option<Secret>) -> Self {
        let file = dir.join(FILE);
        let kept = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice::<Told>(&bytes).inspect_err(|error| {
                warn!(path = %file.display(), %error, "the keys of sessions' tags cannot be read; management tells them again");
            }),
            Err(_) => Ok(Told { number: FIRST, present: None, before: None }),
        };
        let kept = kept.unwrap_or(Told { number: FIRST, present: None, before: None });
        let keys = ArcSwapOption::from(read(&kept, secret.as_ref()).map(Arc::new));
        Self(Arc::new(Inner { secret, file: Some(file), told: Mutex::new(Some(kept)), keys }))
    }

    /// Of these alone, told to nobody.
    pub fn of(keys: Keys) -> Self {
        Self(Arc::new(Inner { keys: ArcSwapOption::from_pointee(keys), ..Inner::default() }))
    }

    /// `None`: none has been told yet, and no tag is made or believed.
    pub fn get(&self) -> arc_swap::Guard<Option<Arc<Keys>>> {
        self.0.keys.load()
    }

    /// What management says. New keys are on disk before they are used.
    pub fn hear(&self, told: &Told) {
        let mut held = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref() == Some(told) {
            return;
        }
        let Some(keys) = read(told, self.0.secret.as_ref()) else { return };
        if let Some(file) = &self.0.file
            && let Err(error) = write(file, told)
        {
            // They are told again with the next heartbeat.
            return warn!(path = %file.display(), %error, "the keys of sessions' tags cannot be kept");
        }
        info!(number = told.number, "has the keys of sessions' tags");
        self.0.keys.store(Some(Arc::new(keys)));
        *held = Some(told.clone());
    }
}

fn read(told: &Told, secret: Option<&Secret>) -> Option<Keys> {
    if let Some(secret) = secret {
        let key = |number| Key::of_secret(number, secret.key());
        return Some(Keys::new(key(told.number), (told.number > FIRST).then(|| key(told.number - 1))));
    }
    let key = |number, hex: &str| Some(Key::new(number, &bytes(hex)?));
    let present = key(told.number, told.present.as_deref()?)?;
    let before = told.before.as_deref().and_then(|hex| key(told.number.wrapping_sub(1), hex));
    Some(Keys::new(present, before))
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.map(byte).collect::<Option<Vec<u8>>>().filter(|bytes| bytes.len() >= 16)
}

/// Beside, and renamed; for its owner's eyes only.
fn write(file: &Path, told: &Told) -> io::Result<()> {
    fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
    let beside = file.with_extension("json.new");
    let _ = fs::remove_file(&beside);
    let mut new = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    new.write_all(&serde_json::to_vec(told)?)?;
    new.sync_all()?;
    fs::rename(&beside, file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::domain::names::{ProgramName, ServerName, Version};
    use crate::domain::session::{SessionId, Tag};

    fn told(number: u32, present: &str, before: Option<&str>) -> Told {
        let hex = |half: &str| half.repeat(16);
        Told { number, present: Some(hex(present)), before: before.map(hex) }
    }

    fn tag(keys: &TagKeys) -> Vec<u8> {
        let (server, version) = (ServerName::new("s1").unwrap(), Version::new("1").unwrap());
        let mut tag = Vec::new();
        let shop = ProgramName::new("shop").unwrap();
        Tag::write(SessionId(7), (&server, &version), 0, &shop, keys.get().as_ref().unwrap(), &mut tag);
        tag
    }

    fn knows(keys: &TagKeys, tag: &[u8]) -> bool {
        Tag::verify(tag, &ProgramName::new("shop").unwrap(), keys.get().as_ref().unwrap()).is_ok()
    }

    #[test]
    fn keys_are_told_kept_and_rolled_and_the_one_before_counts_once_more() {
        let dir = tempfile::tempdir().unwrap();
        let keys = TagKeys::open(dir.path(), None);
        assert!(keys.get().is_none());
        keys.hear(&told(1, "ab", None));
        let first = tag(&keys);
        let again = TagKeys::open(dir.path(), None);
        assert!(knows(&again, &first), "also after a restart");
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        again.hear(&told(2, "cd", Some("ab")));
        assert!(knows(&again, &first) && knows(&again, &tag(&again)));
        again.hear(&told(3, "ef", Some("cd")));
        assert!(!knows(&again, &first));
        again.hear(&told(4, "no hex", None));
        assert!(knows(&again, &tag(&again)), "what cannot be read changes nothing");
    }

    #[test]
    fn a_secret_makes_the_same_keys_everywhere_and_what_travels_is_a_number() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = one.path().join("secret");
        fs::write(&path, "0123456789012345678901234567890123456789").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let secret = Secret::load(&path).unwrap();
        let open = |dir: &Path| TagKeys::open(dir, Some(secret.clone()));
        let (one, two) = (open(one.path()), open(two.path()));
        let first = tag(&one);
        assert!(knows(&two, &first));
        two.hear(&Told { number: 2, present: None, before: None });
        assert!(knows(&two, &first) && !knows(&one, &tag(&two)));
    }
}
