//! `/users/{id}/password`, `/users/{id}/application_credentials`, `/credentials`.

use axum::{Json as Answered, extract::State};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use time::{OffsetDateTime, PrimitiveDateTime, format_description::well_known::Rfc3339, macros::format_description};

use super::{Address, At, Filters, Json, Reply, Who, list};
use crate::{
    catalog::{AppCredential, TotpKey},
    domain::Role,
    fault::{Answer, Fault},
    identity::{credentials::NewCredential, own::Own},
    rest::moment,
    secrets::Secret,
};

#[derive(Deserialize)]
pub(super) struct PasswordBody {
    user: Passwords,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Passwords {
    original_password: Secret,
    password: Secret,
}

pub(super) async fn change_password(
    State(own): State<Own>,
    Who(caller): Who,
    Address(address): Address,
    At(id): At<String>,
    Json(body): Json<PasswordBody>,
) -> Reply<StatusCode> {
    let Passwords { original_password, password } = body.user;
    own.change_password(&caller, &id, original_password, password, address).await?;
    Ok(StatusCode::NO_CONTENT)
}

// ---- application credentials ----

fn program_view(own: &Own, found: &AppCredential) -> Value {
    let path = format!("users/{}/application_credentials/{}", found.user, found.id);
    json!({
        "id": found.id,
        "name": found.name,
        "description": found.description,
        "user_id": found.user,
        "project_id": found.project,
        "roles": [{"id": found.role.id(), "name": found.role.as_str(), "domain_id": null}],
        "expires_at": found.expires_us.map(moment),
        "unrestricted": found.unrestricted,
        "system": null,
        "links": {"self": format!("{}/identity/v3/{path}", own.url())},
    })
}

#[derive(Deserialize)]
pub(super) struct ProgramBody {
    application_credential: ProgramFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProgramFields {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    secret: Option<Secret>,
    #[serde(default)]
    roles: Option<Vec<RoleName>>,
    #[serde(default)]
    expires_at: Option<String>,
    #[serde(default)]
    unrestricted: Option<bool>,
    #[serde(default)]
    access_rules: Option<Vec<Value>>,
    /// Clients send the project of their token along.
    #[serde(default, rename = "project_id")]
    _project_id: Option<String>,
}

#[derive(Deserialize)]
struct RoleName {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    name: Option<String>,
}

impl RoleName {
    fn role(&self) -> Answer<Role> {
        let found = match (&self.id, &self.name) {
            (Some(id), _) => Role::by_id(id),
            (None, Some(name)) => Role::named(name),
            (None, None) => None,
        };
        found.ok_or_else(|| Fault::bad("roles are admin, member and reader, by their ids or names"))
    }
}

/// A moment as clients write it, in UTC unless it says otherwise.
fn moment_of(text: &str) -> Answer<u64> {
    const PLAIN: &[time::format_description::FormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second][optional [.[subsecond]]]");
    let plain = || PrimitiveDateTime::parse(text.trim_end_matches('Z'), &PLAIN).map(PrimitiveDateTime::assume_utc);
    let found: Result<OffsetDateTime, _> = OffsetDateTime::parse(text, &Rfc3339).or_else(|_| plain());
    let micros = found.ok().and_then(|at| u64::try_from(at.unix_timestamp_nanos() / 1000).ok());
    micros.ok_or_else(|| Fault::bad("expires_at is a moment like 2027-01-31T12:00:00"))
}

pub(super) async fn programs(
    State(own): State<Own>,
    Who(caller): Who,
    At(user): At<String>,
    filters: Filters,
) -> Reply<Answered<Value>> {
    let all = own.app_credentials(&caller, &user)?;
    let shown = all.iter().filter(|found| filters.is("name", &found.name)).map(|found| program_view(&own, found));
    let path = format!("users/{user}/application_credentials");
    Ok(list(&own, &path, "application_credentials", shown.collect()))
}

pub(super) async fn program(
    State(own): State<Own>,
    Who(caller): Who,
    At((user, id)): At<(String, String)>,
) -> Reply<Answered<Value>> {
    let found = own.app_credential(&caller, &user, &id)?;
    Ok(Answered(json!({"application_credential": program_view(&own, &found)})))
}

pub(super) async fn create_program(
    State(own): State<Own>,
    Who(caller): Who,
    At(user): At<String>,
    Json(body): Json<ProgramBody>,
) -> Reply<(StatusCode, Answered<Value>)> {
    let fields = body.application_credential;
    if fields.access_rules.is_some_and(|rules| !rules.is_empty()) {
        return Err(Fault::bad("access rules of application credentials are not served here").into());
    }
    let roles = fields.roles.unwrap_or_default();
    let new = NewCredential {
        name: fields.name,
        description: fields.description,
        secret: fields.secret,
        roles: roles.iter().map(RoleName::role).collect::<Answer<_>>()?,
        expires_us: fields.expires_at.as_deref().map(moment_of).transpose()?,
        unrestricted: fields.unrestricted.unwrap_or(false),
    };
    let (found, secret) = own.create_app_credential(&caller, &user, new).await?;
    let mut view = program_view(&own, &found);
    if let Some(fields) = view.as_object_mut() {
        drop(fields.insert("secret".to_owned(), json!(secret)));
    }
    Ok((StatusCode::CREATED, Answered(json!({"application_credential": view}))))
}

pub(super) async fn delete_program(
    State(own): State<Own>,
    Who(caller): Who,
    At((user, id)): At<(String, String)>,
) -> Reply<StatusCode> {
    own.delete_app_credential(&caller, &user, &id)?;
    Ok(StatusCode::NO_CONTENT)
}

// ---- keys of one-time passwords ----

/// The key itself is not shown again: what shows it has it.
fn key_view(own: &Own, found: &TotpKey) -> Value {
    json!({
        "id": found.id,
        "type": "totp",
        "user_id": found.user,
        "project_id": null,
        "blob": "",
        "links": {"self": format!("{}/identity/v3/credentials/{}", own.url(), found.id)},
    })
}

#[derive(Deserialize)]
pub(super) struct KeyBody {
    credential: KeyFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFields {
    #[serde(rename = "type")]
    kind: String,
    blob: Secret,
    #[serde(default)]
    user_id: Option<String>,
    #[serde(default, rename = "project_id")]
    _project_id: Option<String>,
}

pub(super) async fn keys(State(own): State<Own>, Who(caller): Who, filters: Filters) -> Reply<Answered<Value>> {
    let keys = own.totp_keys(&caller, filters.get("user_id"))?;
    let shown = keys.iter().filter(|_| filters.is("type", "totp")).map(|key| key_view(&own, key));
    Ok(list(&own, "credentials", "credentials", shown.collect()))
}

pub(super) async fn key(State(own): State<Own>, Who(caller): Who, At(id): At<String>) -> Reply<Answered<Value>> {
    let found = own.totp_key(&caller, &id)?;
    Ok(Answered(json!({"credential": key_view(&own, &found)})))
}

pub(super) async fn create_key(
    State(own): State<Own>,
    Who(caller): Who,
    Json(body): Json<KeyBody>,
) -> Reply<(StatusCode, Answered<Value>)> {
    let KeyFields { kind, blob, user_id, .. } = body.credential;
    if kind != "totp" {
        return Err(Fault::bad("credentials of the type totp are served, and no others").into());
    }
    let user = user_id.unwrap_or_else(|| caller.user.id.clone());
    let found = own.create_totp_key(&caller, &user, blob)?;
    Ok((StatusCode::CREATED, Answered(json!({"credential": key_view(&own, &found)}))))
}

pub(super) async fn delete_key(State(own): State<Own>, Who(caller): Who, At(id): At<String>) -> Reply<StatusCode> {
    own.delete_totp_key(&caller, &id)?;
    Ok(StatusCode::NO_CONTENT)
}
