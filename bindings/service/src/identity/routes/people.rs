//! `/users`, `/projects`, `/roles`, `/role_assignments`, `/domains`.

use axum::{Json as Answered, extract::State};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::{At, Filters, Json, Reply, Who, given, in_the_domain, list};
use crate::{
    catalog::{Grant, Project, User},
    domain::Role,
    fault::{Answer, Fault},
    identity::{
        directory::{ProjectChange, UserChange},
        documents,
        own::{Live, Own},
    },
    secrets::Secret,
};

// ---- users ----

pub(super) fn user_view(own: &Own, user: &User) -> Value {
    let mut view = documents::user(own.url(), &user.id, &user.name, user.enabled);
    let Some(fields) = view.as_object_mut() else { return view };
    let mut put = |key: &str, value: Value| drop(fields.insert(key.to_owned(), value));
    put("description", json!(user.description));
    put("email", json!(user.email));
    put("default_project_id", json!(user.default_project));
    if user.rules_hold || !user.rules.is_empty() {
        put("options", json!({"multi_factor_auth_enabled": user.rules_hold, "multi_factor_auth_rules": user.rules}));
    }
    view
}

#[derive(Deserialize)]
pub(super) struct UserBody {
    user: UserFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserFields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    description: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    email: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    default_project_id: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    password: Option<Option<Secret>>,
    #[serde(default)]
    domain_id: Option<String>,
    #[serde(default)]
    options: BTreeMap<String, Value>,
}

impl UserFields {
    fn change(self) -> Answer<UserChange> {
        let mut change = UserChange {
            name: self.name,
            enabled: self.enabled,
            description: self.description,
            email: self.email,
            default_project: self.default_project_id.map(|id| id.filter(|id| !id.is_empty())),
            password: self.password,
            ..UserChange::default()
        };
        for (key, value) in self.options {
            let wrong = |_| Fault::bad(format!("the option {key} has the wrong type"));
            match key.as_str() {
                "multi_factor_auth_enabled" => {
                    let flag: Option<bool> = serde_json::from_value(value).map_err(wrong)?;
                    change.rules_hold = Some(flag.unwrap_or(false));
                }
                "multi_factor_auth_rules" => {
                    let rules: Option<Vec<Vec<String>>> = serde_json::from_value(value).map_err(wrong)?;
                    change.rules = Some(rules.unwrap_or_default());
                }
                _ if value.is_null() || value == json!(false) => {}
                _ => return Err(Fault::bad(format!("the option {key} of users is not served here"))),
            }
        }
        Ok(change)
    }
}

pub(super) async fn users(State(own): State<Own>, Who(caller): Who, filters: Filters) -> Reply<Answered<Value>> {
    let fits = |user: &User| {
        filters.is("name", &user.name)
            && filters.is("id", &user.id)
            && filters.is("domain_id", documents::DOMAIN)
            && filters.flag_is("enabled", user.enabled)
    };
    let users = own.users(&caller)?;
    let items = users.iter().filter(|user| fits(user)).map(|user| user_view(&own, user)).collect();
    Ok(list(&own, "users", "users", items))
}

pub(super) async fn user(State(own): State<Own>, Who(caller): Who, At(id): At<String>) -> Reply<Answered<Value>> {
    let user = own.user(&caller, &id)?;
    Ok(Answered(json!({"user": user_view(&own, &user)})))
}

pub(super) async fn create_user(
    State(own): State<Own>,
    Who(caller): Who,
    Json(body): Json<UserBody>,
) -> Reply<(StatusCode, Answered<Value>)> {
    caller.require_admin("identity:create_user")?;
    in_the_domain(body.user.domain_id.as_deref())?;
    let user = own.create_user(&caller, body.user.change()?).await?;
    Ok((StatusCode::CREATED, Answered(json!({"user": user_view(&own, &user)}))))
}

pub(super) async fn change_user(
    State(own): State<Own>,
    Who(caller): Who,
    At(id): At<String>,
    Json(body): Json<UserBody>,
) -> Reply<Answered<Value>> {
    caller.require_admin("identity:update_user")?;
    in_the_domain(body.user.domain_id.as_deref())?;
    let user = own.change_user(&caller, &id, body.user.change()?).await?;
    Ok(Answered(json!({"user": user_view(&own, &user)})))
}

pub(super) async fn delete_user(State(own): State<Own>, Who(caller): Who, At(id): At<String>) -> Reply<StatusCode> {
    own.delete_user(&caller, &id)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn projects_of(
    State(own): State<Own>,
    Who(caller): Who,
    At(id): At<String>,
    filters: Filters,
) -> Reply<Answered<Value>> {
    let user = own.user(&caller, &id)?;
    Ok(listed(&own, &format!("users/{id}/projects"), &filters, &own.projects_of(&user.id)?))
}

// ---- projects ----

pub(super) fn project_view(own: &Own, project: &Project) -> Value {
    documents::project(
        own.url(),
        &documents::ProjectView {
            id: &project.id,
            name: &project.name,
            description: &project.description,
            enabled: project.enabled,
        },
    )
}

#[derive(Deserialize)]
pub(super) struct ProjectBody {
    project: ProjectFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProjectFields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    domain_id: Option<String>,
    #[serde(default)]
    parent_id: Option<String>,
    #[serde(default)]
    is_domain: bool,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    options: BTreeMap<String, Value>,
}

impl ProjectFields {
    fn change(self) -> Reply<ProjectChange> {
        in_the_domain(self.domain_id.as_deref())?;
        in_the_domain(self.parent_id.as_deref())?;
        if self.is_domain || !self.tags.is_empty() || self.options.values().any(|value| !value.is_null()) {
            return Err(Fault::bad("domains, and tags and options of projects, are not served here").into());
        }
        Ok(ProjectChange { name: self.name, enabled: self.enabled, description: self.description })
    }
}

fn listed(own: &Own, path: &str, filters: &Filters, projects: &[Project]) -> Answered<Value> {
    let fits = |project: &&Project| {
        filters.is("name", &project.name)
            && filters.is("id", &project.id)
            && filters.is("domain_id", documents::DOMAIN)
            && filters.is("parent_id", documents::DOMAIN)
            && filters.flag_is("enabled", project.enabled)
            && filters.flag_is("is_domain", false)
    };
    list(own, path, "projects", projects.iter().filter(fits).map(|project| project_view(own, project)).collect())
}

pub(super) async fn projects(State(own): State<Own>, Who(caller): Who, filters: Filters) -> Reply<Answered<Value>> {
    Ok(listed(&own, "projects", &filters, &own.projects(&caller)?))
}

pub(super) async fn project(State(own): State<Own>, Who(caller): Who, At(id): At<String>) -> Reply<Answered<Value>> {
    let project = own.project(&caller, &id)?;
    Ok(Answered(json!({"project": project_view(&own, &project)})))
}

pub(super) async fn create_project(
    State(own): State<Own>,
    Who(caller): Who,
    Json(body): Json<ProjectBody>,
) -> Reply<(StatusCode, Answered<Value>)> {
    caller.require_admin("identity:create_project")?;
    let project = own.create_project(&caller, body.project.change()?)?;
    Ok((StatusCode::CREATED, Answered(json!({"project": project_view(&own, &project)}))))
}

pub(super) async fn change_project(
    State(own): State<Own>,
    Who(caller): Who,
    At(id): At<String>,
    Json(body): Json<ProjectBody>,
) -> Reply<Answered<Value>> {
    caller.require_admin("identity:update_project")?;
    let project = own.change_project(&caller, &id, body.project.change()?)?;
    Ok(Answered(json!({"project": project_view(&own, &project)})))
}

pub(super) async fn delete_project(State(own): State<Own>, Who(caller): Who, At(id): At<String>) -> Reply<StatusCode> {
    own.delete_project(&caller, &id)?;
    Ok(StatusCode::NO_CONTENT)
}

// ---- roles ----

pub(super) async fn roles(State(own): State<Own>, Who(_caller): Who, filters: Filters) -> Answered<Value> {
    let fits = |role: &Role| filters.is("name", role.as_str()) && filters.get("domain_id").is_none();
    list(&own, "roles", "roles", Role::ALL.into_iter().filter(fits).map(documents::role).collect())
}

fn by_id(id: &str) -> Answer<Role> {
    Role::by_id(id).ok_or_else(|| Fault::missing("Role", id))
}

pub(super) async fn role(Who(_caller): Who, At(id): At<String>) -> Reply<Answered<Value>> {
    Ok(Answered(json!({"role": documents::role(by_id(&id)?)})))
}

type Place = (String, String, String);

pub(super) async fn roles_in(
    State(own): State<Own>,
    Who(caller): Who,
    At((project, user)): At<(String, String)>,
) -> Reply<Answered<Value>> {
    let roles = own.roles_in(&caller, &project, &user)?;
    let path = format!("projects/{project}/users/{user}/roles");
    Ok(list(&own, &path, "roles", roles.into_iter().map(documents::role).collect()))
}

pub(super) async fn has_role(
    State(own): State<Own>,
    Who(caller): Who,
    At((project, user, role)): At<Place>,
) -> Reply<StatusCode> {
    let has = own.roles_in(&caller, &project, &user)?;
    match has.contains(&by_id(&role)?) {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Fault::missing("Role assignment", &role).into()),
    }
}

pub(super) async fn give_role(
    State(own): State<Own>,
    Who(caller): Who,
    At((project, user, role)): At<Place>,
) -> Reply<StatusCode> {
    caller.require_admin("identity:create_grant")?;
    own.give_role(&caller, &project, &user, by_id(&role)?)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn take_role(
    State(own): State<Own>,
    Who(caller): Who,
    At((project, user, role)): At<Place>,
) -> Reply<StatusCode> {
    caller.require_admin("identity:revoke_grant")?;
    own.take_role(&caller, &project, &user, by_id(&role)?)?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a grant is called by, and what the roles that it includes are, if these are wanted.
fn assignment(own: &Own, caller: &Live, grant: &Grant, role: Role, names: bool) -> Answer<Value> {
    let mut user = json!({"id": grant.user});
    let mut project = json!({"id": grant.project});
    let mut shown = json!({"id": role.id()});
    if names {
        let domain = json!({"id": documents::DOMAIN, "name": "Default"});
        let found = own.user(caller, &grant.user)?;
        user = json!({"id": found.id, "name": found.name, "domain": domain});
        let found = own.project(caller, &grant.project)?;
        project = json!({"id": found.id, "name": found.name, "domain": domain});
        shown = json!({"id": role.id(), "name": role.as_str()});
    }
    let path = format!("projects/{}/users/{}/roles/{}", grant.project, grant.user, grant.role.id());
    let links = json!({"assignment": format!("{}/identity/v3/{path}", own.url())});
    Ok(json!({"role": shown, "user": user, "scope": {"project": project}, "links": links}))
}

pub(super) async fn assignments(State(own): State<Own>, Who(caller): Who, filters: Filters) -> Reply<Answered<Value>> {
    let names = filters.flag("include_names").unwrap_or(false);
    let effective = filters.get("effective").is_some() && filters.flag("effective") != Some(false);
    let elsewhere = ["group.id", "scope.system", "scope.domain.id"].iter().any(|key| filters.get(key).is_some());
    let mut items = Vec::new();
    for grant in own.grants(&caller)?.iter().filter(|_| !elsewhere) {
        if !filters.is("user.id", &grant.user) || !filters.is("scope.project.id", &grant.project) {
            continue;
        }
        for role in Role::ALL.into_iter().filter(|role| *role == grant.role || effective && *role < grant.role) {
            if filters.is("role.id", &role.id()) {
                items.push(assignment(&own, &caller, grant, role, names)?);
            }
        }
    }
    Ok(list(&own, "role_assignments", "role_assignments", items))
}

// ---- the domain ----

pub(super) async fn domains(State(own): State<Own>, Who(_caller): Who, filters: Filters) -> Answered<Value> {
    let fits = filters.is("name", "Default") && filters.flag_is("enabled", true);
    list(&own, "domains", "domains", fits.then(documents::the_domain).into_iter().collect())
}

pub(super) async fn domain(Who(_caller): Who, At(id): At<String>) -> Reply<Answered<Value>> {
    match id.eq_ignore_ascii_case(documents::DOMAIN) {
        true => Ok(Answered(json!({"domain": documents::the_domain()}))),
        false => Err(Fault::missing("Domain", &id).into()),
    }
}
