//! Owns which tags were found authentic of late, so that a client's next request costs no MAC. Must not know cookies, or
//! where a request came.

use std::rc::Rc;
use std::sync::Arc;

use super::tag::some_of_mac;
use super::{HeldTag, Keys};
use crate::domain::names::ProgramName;

/// Tags that are remembered; a tag has one place, and the last one there stays. A power of two.
const PLACES: usize = 8_192;

/// Authentic tags, by what their clients send. One worker's.
#[derive(Debug, Default)]
pub struct RememberedTags {
    /// That all of them were checked with; others forget them all.
    keys: Option<Arc<Keys>>,
    /// None until the first is remembered.
    places: Vec<Option<(ProgramName, Rc<HeldTag>)>>,
}

impl RememberedTags {
    /// The tag that the text is, if it is authentic: checked, or known by every byte from having been checked with these keys.
    pub fn check(&mut self, text: &[u8], program: &ProgramName, keys: &Arc<Keys>) -> Option<Rc<HeldTag>> {
        if self.keys.as_ref().is_none_or(|ours| !Arc::ptr_eq(ours, keys)) {
            (self.keys, self.places) = (Some(Arc::clone(keys)), Vec::new());
        }
        let at = place(text)?;
        if let Some(Some((of, tag))) = self.places.get(at)
            && tag.is_text(text)
            && of == program
        {
            return Some(Rc::clone(tag));
        }
        let tag = Rc::new(HeldTag::verify(text, program, keys).ok()?);
        if self.places.is_empty() {
            self.places.resize_with(PLACES, || None);
        }
        self.places[at] = Some((program.clone(), Rc::clone(&tag)));
        Some(tag)
    }
}

fn place(text: &[u8]) -> Option<usize> {
    // Of each byte of the text five bits count, which the product has among its upper ones.
    let mixed = some_of_mac(text)?.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Some((mixed >> 32) as usize % PLACES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::session::{Key, SessionId, Tag};

    fn keys(present: u32, before: Option<u32>) -> Arc<Keys> {
        let key = |number| Key::of_secret(number, b"a secret of the whole cluster");
        Arc::new(Keys::new(key(present), before.map(key)))
    }

    fn program(name: &str) -> ProgramName {
        ProgramName::new(name).unwrap()
    }

    fn tag(id: u128, keys: &Keys) -> Vec<u8> {
        let (server, version) = ("app-2".parse().unwrap(), "1.4.2".parse().unwrap());
        let mut text = Vec::new();
        Tag::write(SessionId(id << 64), (&server, &version), 1_764_000_000_000, &program("shop"), keys, &mut text);
        text
    }

    #[test]
    fn a_tag_is_checked_once_and_one_changed_in_any_byte_is_none_also_beside_a_remembered_one() {
        let (mut remembered, keys) = (RememberedTags::default(), keys(3, None));
        let text = tag(7, &keys);
        let first = remembered.check(&text, &program("shop"), &keys).unwrap();
        assert!(Rc::ptr_eq(&first, &remembered.check(&text, &program("shop"), &keys).unwrap()));
        assert_eq!((first.id, first.server(), first.version()), (SessionId(7 << 64), "app-2", "1.4.2"));
        for at in 0..text.len() {
            let mut other = text.clone();
            other[at] ^= 1;
            // Its case does not count in an id, and its text does.
            assert!(remembered.check(&other, &program("shop"), &keys).is_none(), "{at}");
            assert!(!first.is_text(&other) && remembered.check(&text[..at], &program("shop"), &keys).is_none());
        }
        assert!(
            Rc::ptr_eq(&first, &remembered.check(&text, &program("shop"), &keys).unwrap()),
            "forgeries forget none"
        );
        assert!(remembered.check(&text, &program("mail"), &keys).is_none(), "another program's");
        assert!(remembered.check(&[b'0'; 9_000], &program("shop"), &keys).is_none());
        assert!(remembered.check(b"", &program("shop"), &keys).is_none());
    }

    #[test]
    fn other_keys_forget_all_and_judge_anew() {
        let mut remembered = RememberedTags::default();
        let text = tag(7, &keys(3, None));
        let mut old_key = |keys: &Arc<Keys>| remembered.check(&text, &program("shop"), keys).map(|tag| tag.old_key);
        assert_eq!(old_key(&keys(3, None)), Some(false));
        assert_eq!(old_key(&keys(4, Some(3))), Some(true));
        assert_eq!(old_key(&keys(5, Some(4))), None);
        let others = Arc::new(Keys::new(Key::of_secret(3, b"the secret of another cluster"), None));
        assert_eq!(old_key(&others), None);
    }

    #[test]
    fn as_many_are_remembered_as_there_are_places_and_tags_spread_over_them() {
        let (mut remembered, keys) = (RememberedTags::default(), keys(3, None));
        for id in 0..20_000 {
            assert!(remembered.check(&tag(id, &keys), &program("shop"), &keys).is_some());
        }
        assert_eq!(remembered.places.len(), PLACES);
        let taken = remembered.places.iter().flatten().count();
        assert!(taken > PLACES * 8 / 10, "{taken}");
    }
}
