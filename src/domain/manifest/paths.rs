//! Owns which paths a manifest may name inside its release.
//! Must not know files: a path is only text here.

/// The path in its plain form ("public/site"), or why it does not stay inside the release.
pub fn inside(given: &str) -> Result<String, &'static str> {
    if given.starts_with('/') {
        return Err("it must be relative to the release's directory");
    }
    if given.contains('\0') {
        return Err("it must not contain a NUL");
    }
    let mut parts = Vec::new();
    for part in given.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err("it must stay inside the release's directory: remove \"..\""),
            part => parts.push(part),
        }
    }
    if parts.is_empty() && !given.contains('.') {
        return Err("it is empty: \".\" is the release's own directory");
    }
    Ok(if parts.is_empty() { ".".to_owned() } else { parts.join("/") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leaves_the_release_is_refused() {
        assert_eq!(inside("./public//site/"), Ok("public/site".to_owned()));
        assert_eq!(inside("."), Ok(".".to_owned()));
        for given in ["", "/etc", "../x", "a/../../x", "a\0b"] {
            assert!(inside(given).is_err(), "{given:?}");
        }
    }
}
