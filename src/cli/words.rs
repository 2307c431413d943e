//! Owns how one argument is read as a command's words: blanks part them, quotes and backslashes keep them together.
//! Must not know a shell: nothing is substituted.

/// Splits a command into its words; the error says what is left open.
pub fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match (char, quote) {
            ('\\', None | Some('"')) => {
                let next = chars.next().ok_or("it ends with a backslash")?;
                word.get_or_insert_default().push(next);
            }
            (char, Some(open)) if char == open => quote = None,
            ('\'' | '"', None) => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            (char, None) if char.is_whitespace() => words.extend(word.take()),
            (char, _) => word.get_or_insert_default().push(char),
        }
    }
    if let Some(open) = quote {
        return Err(format!("a {open} is not closed"));
    }
    words.extend(word);
    if words.is_empty() { Err("there is no command".to_owned()) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn blanks_part_words_and_quotes_keep_them() {
        let words = |text| split(text).unwrap();
        assert_eq!(words("apt-get install  -y libssl3=3.0.11-1"), ["apt-get", "install", "-y", "libssl3=3.0.11-1"]);
        assert_eq!(words(r#"sh -c 'a "b" c' "d\"e" f\ g ''"#), ["sh", "-c", r#"a "b" c"#, "d\"e", "f g", ""]);
        assert!(split("a 'b").unwrap_err().contains("not closed"));
        assert!(split("a \\").is_err());
        assert!(split("  ").is_err());
    }
}
