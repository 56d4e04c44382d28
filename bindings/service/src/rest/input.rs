//! What requests say: bodies, and the several ways in which clients write numbers and truth.

use axum::extract::{FromRequest, FromRequestParts, Request};
use http::request::Parts;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;
use std::collections::BTreeMap;

use crate::fault::{Answer, Fault, FaultKind};

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Answer<Self> {
        let bytes = bytes::Bytes::from_request(request, state).await.map_err(|rejection| {
            let kind = match rejection.status().as_u16() {
                413 => FaultKind::OverLimit,
                _ => FaultKind::BadRequest,
            };
            Fault::new(kind, format!("the body cannot be read: {}", rejection.body_text()))
        })?;
        serde_json::from_slice(&bytes).map(Self).map_err(|e| Fault::bad(format!("Invalid input: {e}")))
    }
}

/// Variable parts of a path.
pub(crate) struct At<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for At<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let axum::extract::Path(found) = axum::extract::Path::<T>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Fault::bad(rejection.body_text()))?;
        Ok(Self(found))
    }
}

/// A query: each key once, the last one counts.
pub(super) struct Query(pub(super) BTreeMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Answer<Self> {
        let text = parts.uri.query().unwrap_or_default();
        serde_urlencoded::from_str::<Vec<(String, String)>>(text)
            .map(|pairs| Self(pairs.into_iter().collect()))
            .map_err(|e| Fault::bad(format!("the query cannot be read: {e}")))
    }
}

/// Truth as clients write it: `true`, `"True"`, `1`, `"yes"`, …
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flag(pub(super) bool);

impl Flag {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" | "t" | "y" => Some(Self(true)),
            "false" | "0" | "no" | "off" | "f" | "n" => Some(Self(false)),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let found = match &value {
            Value::Bool(flag) => Some(Self(*flag)),
            Value::String(text) => Self::parse(text),
            Value::Number(number) => number.as_u64().filter(|n| *n <= 1).map(|n| Self(n == 1)),
            Value::Null => Some(Self(false)),
            _ => None,
        };
        found.ok_or_else(|| serde::de::Error::custom(format!("{value} is neither true nor false")))
    }
}

/// A whole number, also as a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number(pub(super) i64);

impl Number {
    /// As a size in GiB.
    pub(super) fn gib(self) -> Answer<u64> {
        u64::try_from(self.0).map_err(|_| Fault::bad(format!("a volume has 1 to 65536 GiB, not {}", self.0)))
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let found = match &value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        found.map(Self).ok_or_else(|| serde::de::Error::custom(format!("{value} is not a whole number")))
    }
}

/// A field that may be left out, be null, or have a value: left out, it is to stay as it is.
pub(super) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(from).map(Some)
}

/// The one action in the body of an action.
pub(super) fn one_action(body: BTreeMap<String, Value>) -> Answer<(String, Value)> {
    let mut actions = body.into_iter();
    match (actions.next(), actions.next()) {
        (Some(action), None) => Ok(action),
        _ => Err(Fault::bad("the body of an action names one action")),
    }
}

/// The arguments of an action.
pub(super) fn arguments<T: DeserializeOwned>(name: &str, value: Value) -> Answer<T> {
    serde_json::from_value(value).map_err(|e| Fault::bad(format!("Invalid input for {name}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_and_numbers_are_written_in_several_ways() {
        let flag = |text: &str| serde_json::from_str::<Flag>(text).ok().map(|flag| flag.0);
        for yes in ["true", "\"True\"", "1", "\"1\"", "\"yes\""] {
            assert_eq!(flag(yes), Some(true), "{yes}");
        }
        for no in ["false", "\"False\"", "0", "null", "\"off\""] {
            assert_eq!(flag(no), Some(false), "{no}");
        }
        assert_eq!((flag("2"), flag("\"maybe\""), flag("[]")), (None, None, None));
        let number = |text: &str| serde_json::from_str::<Number>(text).ok().map(|number| number.0);
        assert_eq!((number("3"), number("\"3\""), number("-1")), (Some(3), Some(3), Some(-1)));
        assert_eq!((number("1.5"), number("\"x\""), number("true"), number("1e300")), (None, None, None, None));
        assert!(Number(-1).gib().is_err());
    }

    #[test]
    fn an_action_is_one() {
        let body = |text: &str| serde_json::from_str::<BTreeMap<String, Value>>(text).unwrap();
        assert_eq!(one_action(body("{\"a\":null}")).unwrap().0, "a");
        assert!(one_action(body("{}")).is_err() && one_action(body("{\"a\":1,\"b\":2}")).is_err());
    }
}
