//! Dictionaries of texts in a query, as JSON or as Python writes them: clients send `str()` of theirs.

use std::{collections::BTreeMap, iter::Peekable, str::Chars};

/// Reads one. Nothing: it is none, or has something else than texts in it.
pub(super) fn parsed(text: &str) -> Option<BTreeMap<String, String>> {
    serde_json::from_str(text).ok().or_else(|| of_python(text))
}

fn of_python(text: &str) -> Option<BTreeMap<String, String>> {
    let mut rest = text.chars().peekable();
    let mut found = BTreeMap::new();
    expect(&mut rest, '{')?;
    while next_is_quote(&mut rest) {
        let key = literal(&mut rest)?;
        expect(&mut rest, ':')?;
        skip_space(&mut rest);
        let _same = found.insert(key, literal(&mut rest)?);
        skip_space(&mut rest);
        if rest.peek() != Some(&',') {
            break;
        }
        let _comma = rest.next();
    }
    expect(&mut rest, '}')?;
    skip_space(&mut rest);
    rest.next().is_none().then_some(found)
}

fn skip_space(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| c.is_ascii_whitespace()).is_some() {}
}

fn expect(rest: &mut Peekable<Chars<'_>>, wanted: char) -> Option<()> {
    skip_space(rest);
    rest.next_if_eq(&wanted).map(drop)
}

fn next_is_quote(rest: &mut Peekable<Chars<'_>>) -> bool {
    skip_space(rest);
    matches!(rest.peek(), Some('\'' | '"'))
}

/// A text between quotes of either kind.
fn literal(rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    let quote = rest.next_if(|c| matches!(c, '\'' | '"'))?;
    let mut text = String::new();
    loop {
        match rest.next()? {
            c if c == quote => return Some(text),
            '\\' => text.push(escaped(rest)?),
            c => text.push(c),
        }
    }
}

/// What stands behind a backslash, as `repr` writes it.
fn escaped(rest: &mut Peekable<Chars<'_>>) -> Option<char> {
    let digits = match rest.next()? {
        c @ ('\\' | '\'' | '"') => return Some(c),
        'n' => return Some('\n'),
        'r' => return Some('\r'),
        't' => return Some('\t'),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => return None,
    };
    let mut code = 0;
    for _ in 0..digits {
        code = code * 16 + rest.next()?.to_digit(16)?;
    }
    char::from_u32(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(all: &[(&str, &str)]) -> Option<BTreeMap<String, String>> {
        Some(all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn both_forms_are_read_and_nothing_else() {
        for text in [r#"{"a":"b"}"#, "{'a': 'b'}", r#"{ 'a' : "b" , }"#, r"{'\x61': '\u0062'}", r"{'a': '\U00000062'}"]
        {
            assert_eq!(parsed(text), pairs(&[("a", "b")]), "{text}");
        }
        assert_eq!(parsed("{}"), pairs(&[]));
        assert_eq!(parsed("{'a': 'b', 'c': 'd'}"), pairs(&[("a", "b"), ("c", "d")]));
        for wrong in [
            "",
            "{",
            "}",
            "a",
            "[]",
            "{'a'}",
            "{'a': }",
            "{'a': 1}",
            "{'a': None}",
            "{'a': 'b'",
            "{'a': 'b'} x",
            "{'a': 'b\"}",
            "{'a' 'b'}",
            "{,}",
            "{'a': 'b' 'c': 'd'}",
            r"{'a': '\q'}",
            r"{'a': '\x6'}",
            r"{'a': '\ud800'}",
            r"{'a': '\UFFFFFFFF'}",
            "{'a': '\\",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn quotes_within_texts_stay_what_they_are() {
        assert_eq!(parsed(r#"{'note': "it's"}"#), pairs(&[("note", "it's")]));
        assert_eq!(parsed(r#"{'note': '"so"'}"#), pairs(&[("note", "\"so\"")]));
        assert_eq!(parsed(r#"{'note': 'it\'s "so"\\\n\t\r'}"#), pairs(&[("note", "it's \"so\"\\\n\t\r")]));
        assert_eq!(parsed(r#"{'a': "b', 'c': 'd"}"#), pairs(&[("a", "b', 'c': 'd")]));
    }
}
