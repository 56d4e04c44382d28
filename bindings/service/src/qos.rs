//! Changes of limits as they travel: a JSON object of keys and values.
//!
//! Invariant: what a value may be is said by the engine alone, so that its sentence is what the caller reads. Here only the form is looked at.

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::Value;
use std::fmt;

/// `PATCH /v1/qos/{target}`: `{"total_iops_sec": 500, "total_bytes_sec": "64MiB", "group": null}`. A key with null is taken out.
///
/// ```
/// use cairn_service::qos::Changes;
/// let changes: Changes = serde_json::from_str(r#"{"total_iops_sec": 500, "group": null}"#).unwrap();
/// assert_eq!(changes.0, [("total_iops_sec".to_owned(), Some("500".to_owned())), ("group".to_owned(), None)]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(pub Vec<(String, Option<String>)>);

impl Changes {
    /// A key that is there more than once: which of its values counts would be a guess.
    pub(crate) fn repeated(&self) -> Option<&str> {
        let mut keys: Vec<&str> = self.0.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        keys.array_windows().find(|[a, b]| a == b).map(|[key, _]| *key)
    }
}

impl Serialize for Changes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Changes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

/// Keeps what a map would drop: keys that come twice.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Changes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of keys and values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Changes, A::Error> {
        let mut changes = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            let value = match value {
                Value::Null => None,
                Value::String(text) => Some(text),
                Value::Number(number) => Some(number.to_string()),
                _ => return Err(A::Error::custom(format!("{key}: a number, a string or null is needed"))),
            };
            changes.push((key, value));
        }
        Ok(Changes(changes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let changes = Changes(vec![("b".into(), Some("64MiB".into())), ("a".into(), None), ("b".into(), None)]);
        let text = serde_json::to_string(&changes).unwrap();
        assert_eq!(text, r#"{"b":"64MiB","a":null,"b":null}"#);
        assert_eq!(serde_json::from_str::<Changes>(&text).unwrap(), changes);
        assert_eq!(changes.repeated(), Some("b"));
        assert_eq!(Changes(changes.0[..2].to_vec()).repeated(), None);
    }

    #[test]
    fn numbers_reach_the_engine_as_they_are() {
        let text = |json: &str| serde_json::from_str::<Changes>(&format!("{{\"k\":{json}}}")).unwrap().0[0].1.clone();
        assert_eq!(text("18446744073709551615").as_deref(), Some("18446744073709551615"));
        assert_eq!(text("-5").as_deref(), Some("-5"));
        assert_eq!(text("1.5").as_deref(), Some("1.5"));
        for json in ["true", "[1]", "{}"] {
            let error = serde_json::from_str::<Changes>(&format!("{{\"k\":{json}}}")).unwrap_err().to_string();
            assert!(error.starts_with("k: a number"), "{error}");
        }
        assert!(serde_json::from_str::<Changes>("[]").is_err());
    }
}
