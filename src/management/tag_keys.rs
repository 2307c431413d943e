//! Owns the keys of sessions' tags that management makes: for clusters without a secret, of which all others make theirs
//! by number alone. Must not know who is told.

use crate::wire::messages::TagKeys;

const FIRST: u32 = 1;

/// The first key of a cluster.
pub fn make() -> TagKeys {
    TagKeys { number: FIRST, present: Some(random()), before: None }
}

/// A new key; tags of the one before count until the next roll.
pub fn roll(keys: &TagKeys) -> TagKeys {
    TagKeys { number: keys.number.wrapping_add(1).max(FIRST), present: Some(random()), before: keys.present.clone() }
}

/// What nodes are told: where they have a secret, a number is enough.
pub fn told(keys: &TagKeys, has_secret: bool) -> TagKeys {
    match has_secret {
        true => TagKeys { number: keys.number, present: None, before: None },
        false => keys.clone(),
    }
}

fn random() -> String {
    rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roll_keeps_the_key_before_and_a_secret_keeps_all_at_home() {
        let (first, second) = (make(), roll(&make()));
        assert_eq!((first.number, second.number, first.before), (1, 2, None));
        assert_eq!(second.present.as_ref().map(String::len), Some(64));
        let third = roll(&second);
        assert_eq!((third.number, &third.before), (3, &second.present));
        assert!(third.present != second.present);
        assert_eq!(told(&third, true), TagKeys { number: 3, present: None, before: None });
        assert_eq!(told(&third, false), third);
    }
}
