//! Who may do what: a line for each route and method, and more where it does several things.
//!
//! In paths and bodies `$name` stands for an object ([`super::Objects`]); all of them belong to one project. `$new` is a name that
//! nothing has.

/// Who may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Everybody, without a token.
    Open,
    /// Whoever has a token.
    Anyone,
    /// Whoever has a token; the list shows this to those of the project.
    ListHere(&'static str),
    /// Whoever has a token; the list shows this to those of the project, and to administrators.
    ListAcross(&'static str),
    /// Whoever has a token; the list shows this to its owner, and to administrators.
    ListOwn(&'static str),
    /// Whoever has a token; the list shows this to administrators.
    ListAdmin(&'static str),
    /// Those of the project, and administrators. For others it is not there.
    Read,
    /// Members of the project, which has to be the token's: administrators of others are told so. For others it is not there.
    Join,
    /// Administrators, and only looking. For others it is not there.
    Secret,
    /// Members, for their own project.
    Create,
    /// Members of the project, and administrators. For others it is not there.
    Write,
    /// Administrators. For other members it is not there.
    SecretWrite,
    /// Administrators. For members of other projects it is not there.
    Manage,
    /// Administrators, whatever it is about.
    Admin,
    /// Those of the project, and administrators; others are refused, whether there is such a project or not.
    Quota,
    /// Members of the project, and administrators. Others see it, and are refused.
    Shown,
    /// The user that is named. For others there is no such user.
    Own,
    /// The user that is named, and administrators. For others there is no such user.
    OwnOrAdmin,
}

/// A route, one thing that it does, and who may do it.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) method: &'static str,
    /// As the router has it.
    pub(crate) route: &'static str,
    /// As a request has it; empty: the same.
    pub(crate) path: &'static str,
    pub(crate) body: &'static str,
    pub(crate) rule: Rule,
    /// What those are answered who may.
    pub(crate) ok: u16,
}

impl Line {
    /// Its path, with the objects' names.
    pub(crate) fn path(&self) -> &'static str {
        if self.path.is_empty() { self.route } else { self.path }
    }

    /// Whether it takes objects that are really in the pool, or under way ([`super::World::all_objects`]).
    #[cfg(test)]
    pub(crate) fn takes_all(&self) -> bool {
        self.route.starts_with("/cairn/v1/")
    }

    /// Whether it is a `GET` that changes something.
    pub(crate) fn changes(&self) -> bool {
        self.route.contains("associate")
    }
}

const fn get(route: &'static str, path: &'static str, rule: Rule, ok: u16) -> Line {
    Line { method: "GET", route, path, body: "", rule, ok }
}

const fn post(route: &'static str, path: &'static str, body: &'static str, rule: Rule, ok: u16) -> Line {
    Line { method: "POST", route, path, body, rule, ok }
}

const fn put(route: &'static str, path: &'static str, body: &'static str, rule: Rule, ok: u16) -> Line {
    Line { method: "PUT", route, path, body, rule, ok }
}

const fn patch(route: &'static str, path: &'static str, body: &'static str, rule: Rule, ok: u16) -> Line {
    Line { method: "PATCH", route, path, body, rule, ok }
}

const fn delete(route: &'static str, path: &'static str, rule: Rule, ok: u16) -> Line {
    Line { method: "DELETE", route, path, body: "", rule, ok }
}

use Rule::{
    Admin, Anyone, Create, Join, ListAcross, ListAdmin, ListHere, ListOwn, Manage, Open, Own, OwnOrAdmin, Quota, Read,
    Secret, SecretWrite, Shown, Write,
};

const ACTION: &str = "/v3/volumes/{id}/action";
const ON_VOLUME: &str = "/v3/volumes/$volume/action";

#[rustfmt::skip]
pub(crate) const TABLE: &[Line] = &[
    // The server itself.
    get("/", "", Open, 300),
    get("/v3", "", Open, 200),
    get("/v3/", "", Open, 200),
    get("/healthz", "", Open, 200),
    get("/metrics", "", Admin, 200),

    // What Block Storage lacks. These stand before what makes many objects, since some of them look at all there are.
    get("/cairn/v1/openapi.json", "", Open, 200),
    get("/cairn/v1/events", "", ListAcross("$volume"), 200),
    get("/cairn/v1/events", "/cairn/v1/events?project=$project", ListAcross("$volume"), 200),
    get("/cairn/v1/events", "/cairn/v1/events?object=$volume", ListAcross("$ended"), 200),
    get("/cairn/v1/events/export", "", ListAcross("$volume"), 200),
    get("/cairn/v1/events/export", "/cairn/v1/events/export?project=$project", ListAcross("$volume"), 200),
    get("/cairn/v1/metering", "", ListAcross("$volume"), 200),
    get("/cairn/v1/metering", "/cairn/v1/metering?project=$project", ListAcross("$volume"), 200),
    get("/cairn/v1/metering/export", "", ListAcross("$volume"), 200),
    get("/cairn/v1/metering/export", "/cairn/v1/metering/export?project=$project", ListAcross("$volume"), 200),
    post("/cairn/v1/metering/close", "", "", Admin, 200),
    get("/cairn/v1/pools", "", Admin, 200),
    get("/cairn/v1/tasks", "", ListAcross("$running"), 200),
    get("/cairn/v1/tasks", "/cairn/v1/tasks?project=$project", ListAcross("$running"), 200),
    get("/cairn/v1/tasks/{id}", "/cairn/v1/tasks/$running", Read, 200),
    get("/cairn/v1/tasks/{id}", "/cairn/v1/tasks/$ended", Read, 200),
    delete("/cairn/v1/tasks/{id}", "/cairn/v1/tasks/$running", Write, 202),
    delete("/cairn/v1/tasks/{id}", "/cairn/v1/tasks/$ended", Write, 409),
    get("/cairn/v1/diff", "/cairn/v1/diff?to=$real", Read, 200),
    get("/cairn/v1/diff", "/cairn/v1/diff?from=$shot&to=$real", Read, 200),
    get("/cairn/v1/volumes/{id}/lineage", "/cairn/v1/volumes/$real/lineage", Read, 200),
    post("/cairn/v1/volumes/{id}/revert", "/cairn/v1/volumes/$real/revert", r#"{"snapshot_id":"$shot"}"#, Write, 202),
    post("/cairn/v1/group-snapshots", "", r#"{"volume_ids":["$volume","$real"]}"#, Write, 202),
    get("/cairn/v1/backups/{id}/chain", "/cairn/v1/backups/$increment/chain", Read, 200),
    post("/cairn/v1/backups/{id}/merge", "/cairn/v1/backups/$full/merge", "", Write, 202),
    post("/cairn/v1/backups/{id}/promote", "/cairn/v1/backups/$increment/promote", "", Write, 202),
    post("/cairn/v1/backups/{id}/instant-restore", "/cairn/v1/backups/$backup/instant-restore", r#"{"name":"$new"}"#, Write, 202),
    post("/cairn/v1/backups/{id}/instant-restore", "/cairn/v1/backups/$backup/instant-restore", r#"{"volume_type":"$private"}"#, Write, 202),
    get("/cairn/v1/qos", "", Admin, 200),
    patch("/cairn/v1/qos/pool", "", r#"{"total_iops_sec":1000000}"#, Admin, 200),
    get("/cairn/v1/qos/pool", "", Admin, 200),
    delete("/cairn/v1/qos/pool", "", Admin, 204),
    patch("/cairn/v1/qos/groups/{name}", "/cairn/v1/qos/groups/g", r#"{"total_iops_sec":1000000}"#, Admin, 200),
    get("/cairn/v1/qos/groups/{name}", "/cairn/v1/qos/groups/g", Admin, 200),
    delete("/cairn/v1/qos/groups/{name}", "/cairn/v1/qos/groups/g", Admin, 204),
    get("/cairn/v1/qos/projects/{project}", "/cairn/v1/qos/projects/$project", Read, 200),
    patch("/cairn/v1/qos/projects/{project}", "/cairn/v1/qos/projects/$spare", r#"{"total_iops_sec":1000000}"#, Admin, 200),
    delete("/cairn/v1/qos/projects/{project}", "/cairn/v1/qos/projects/$spare", Admin, 204),
    get("/cairn/v1/volumes/{id}/qos", "/cairn/v1/volumes/$real/qos", Read, 200),
    patch("/cairn/v1/volumes/{id}/qos", "/cairn/v1/volumes/$real/qos", r#"{"total_iops_sec":1000000}"#, Admin, 200),
    delete("/cairn/v1/volumes/{id}/qos", "/cairn/v1/volumes/$real/qos", Admin, 204),

    // Volumes.
    get("/v3/volumes", "", ListHere("$volume"), 200),
    get("/v3/volumes", "/v3/volumes?all_tenants=1", ListAcross("$volume"), 200),
    get("/v3/volumes", "/v3/volumes?all_tenants=1&project_id=$project", ListAcross("$volume"), 200),
    get("/v3/volumes/detail", "", ListHere("$volume"), 200),
    get("/v3/volumes/detail", "/v3/volumes/detail?all_tenants=1", ListAcross("$volume"), 200),
    get("/v3/volumes/summary", "", Anyone, 200),
    get("/v3/volumes/{id}", "/v3/volumes/$volume", Read, 200),
    post("/v3/volumes", "", r#"{"volume":{"size":1}}"#, Create, 202),
    post("/v3/volumes", "", r#"{"volume":{"snapshot_id":"$snapshot"}}"#, Write, 202),
    post("/v3/volumes", "", r#"{"volume":{"source_volid":"$volume"}}"#, Write, 202),
    post("/v3/volumes", "", r#"{"volume":{"backup_id":"$backup"}}"#, Write, 202),
    post("/v3/volumes", "", r#"{"volume":{"size":1,"volume_type":"$private"}}"#, Write, 202),
    put("/v3/volumes/{id}", "/v3/volumes/$volume", r#"{"volume":{"name":"$new"}}"#, Write, 200),
    delete("/v3/volumes/{id}", "/v3/volumes/$volume", Write, 202),
    delete("/v3/volumes/{id}", "/v3/volumes/$based?cascade=true", Write, 202),
    delete("/v3/volumes/{id}", "/v3/volumes/$volume?force=true", Admin, 202),
    get("/v3/volumes/{id}/metadata", "/v3/volumes/$volume/metadata", Read, 200),
    post("/v3/volumes/{id}/metadata", "/v3/volumes/$volume/metadata", r#"{"metadata":{"a":"b"}}"#, Write, 200),
    put("/v3/volumes/{id}/metadata", "/v3/volumes/$volume/metadata", r#"{"metadata":{"a":"b"}}"#, Write, 200),
    get("/v3/volumes/{id}/metadata/{key}", "/v3/volumes/$volume/metadata/k", Read, 200),
    put("/v3/volumes/{id}/metadata/{key}", "/v3/volumes/$volume/metadata/k", r#"{"meta":{"k":"b"}}"#, Write, 200),
    delete("/v3/volumes/{id}/metadata/{key}", "/v3/volumes/$volume/metadata/k", Write, 200),
    post(ACTION, ON_VOLUME, r#"{"os-extend":{"new_size":2}}"#, Write, 202),
    post(ACTION, ON_VOLUME, r#"{"os-retype":{"new_type":"$type"}}"#, Write, 202),
    post(ACTION, "/v3/volumes/$based/action", r#"{"revert":{"snapshot_id":"$snapshot"}}"#, Write, 202),
    post(ACTION, ON_VOLUME, r#"{"os-set_bootable":{"bootable":true}}"#, Write, 200),
    post(ACTION, ON_VOLUME, r#"{"os-update_readonly_flag":{"readonly":true}}"#, Write, 202),
    post(ACTION, ON_VOLUME, r#"{"os-reserve":{}}"#, Write, 202),
    post(ACTION, ON_VOLUME, r#"{"os-attach":{"host_name":"h","mountpoint":"/m"}}"#, Write, 202),
    post(ACTION, ON_VOLUME, r#"{"os-initialize_connection":{"connector":{"host":"h"}}}"#, Write, 200),
    post(ACTION, ON_VOLUME, r#"{"os-terminate_connection":{"connector":{"host":"h"}}}"#, Write, 202),
    post(ACTION, "/v3/volumes/$used/action", r#"{"os-detach":{}}"#, Write, 202),
    post(ACTION, ON_VOLUME, r#"{"os-show_image_metadata":{}}"#, Write, 200),
    post(ACTION, ON_VOLUME, r#"{"os-set_image_metadata":{"metadata":{"a":"b"}}}"#, Write, 200),
    post(ACTION, ON_VOLUME, r#"{"os-reset_status":{"status":"error"}}"#, Manage, 202),
    post(ACTION, ON_VOLUME, r#"{"os-force_delete":{}}"#, Manage, 202),
    post(ACTION, "/v3/volumes/$used/action", r#"{"os-force_detach":{}}"#, Manage, 202),

    // Attachments.
    get("/v3/attachments", "", ListHere("$attachment"), 200),
    get("/v3/attachments", "/v3/attachments?all_tenants=1", ListAcross("$attachment"), 200),
    get("/v3/attachments/detail", "", ListHere("$attachment"), 200),
    get("/v3/attachments/{id}", "/v3/attachments/$attachment", Read, 200),
    post("/v3/attachments", "", r#"{"attachment":{"volume_uuid":"$volume"}}"#, Write, 200),
    put("/v3/attachments/{id}", "/v3/attachments/$attachment", r#"{"attachment":{"connector":{"host":"h"}}}"#, Write, 200),
    delete("/v3/attachments/{id}", "/v3/attachments/$attachment", Write, 200),
    post("/v3/attachments/{id}/action", "/v3/attachments/$attachment/action", r#"{"os-complete":{}}"#, Write, 204),

    // Transfers. Whoever knows the id and the key may take one, from any project.
    get("/v3/volume-transfers", "", ListHere("$transfer"), 200),
    get("/v3/volume-transfers", "/v3/volume-transfers?all_tenants=1", ListAcross("$transfer"), 200),
    get("/v3/volume-transfers/detail", "", ListHere("$transfer"), 200),
    get("/v3/volume-transfers/{id}", "/v3/volume-transfers/$transfer", Read, 200),
    post("/v3/volume-transfers", "", r#"{"transfer":{"volume_id":"$volume"}}"#, Write, 202),
    delete("/v3/volume-transfers/{id}", "/v3/volume-transfers/$transfer", Write, 202),
    post("/v3/volume-transfers/{id}/accept", "/v3/volume-transfers/$transfer/accept", r#"{"accept":{"auth_key":"the password"}}"#, Create, 202),
    post("/v3/volume-transfers/{id}/accept", "/v3/volume-transfers/$transfer/accept", r#"{"accept":{"auth_key":"no"}}"#, Create, 400),
    get("/v3/os-volume-transfer", "", ListHere("$transfer"), 200),
    get("/v3/os-volume-transfer/detail", "", ListHere("$transfer"), 200),
    get("/v3/os-volume-transfer/{id}", "/v3/os-volume-transfer/$transfer", Read, 200),
    post("/v3/os-volume-transfer", "", r#"{"transfer":{"volume_id":"$volume"}}"#, Write, 202),
    delete("/v3/os-volume-transfer/{id}", "/v3/os-volume-transfer/$transfer", Write, 202),
    post("/v3/os-volume-transfer/{id}/accept", "/v3/os-volume-transfer/$transfer/accept", r#"{"accept":{"auth_key":"the password"}}"#, Create, 202),

    // Snapshots.
    get("/v3/snapshots", "", ListHere("$snapshot"), 200),
    get("/v3/snapshots", "/v3/snapshots?all_tenants=1", ListAcross("$snapshot"), 200),
    get("/v3/snapshots", "/v3/snapshots?volume_id=$based", ListHere("$snapshot"), 200),
    get("/v3/snapshots/detail", "", ListHere("$snapshot"), 200),
    get("/v3/snapshots/{id}", "/v3/snapshots/$snapshot", Read, 200),
    post("/v3/snapshots", "", r#"{"snapshot":{"volume_id":"$volume"}}"#, Write, 202),
    put("/v3/snapshots/{id}", "/v3/snapshots/$snapshot", r#"{"snapshot":{"name":"$new"}}"#, Write, 200),
    delete("/v3/snapshots/{id}", "/v3/snapshots/$snapshot", Write, 202),
    get("/v3/snapshots/{id}/metadata", "/v3/snapshots/$snapshot/metadata", Read, 200),
    post("/v3/snapshots/{id}/metadata", "/v3/snapshots/$snapshot/metadata", r#"{"metadata":{"a":"b"}}"#, Write, 200),
    put("/v3/snapshots/{id}/metadata", "/v3/snapshots/$snapshot/metadata", r#"{"metadata":{"a":"b"}}"#, Write, 200),
    get("/v3/snapshots/{id}/metadata/{key}", "/v3/snapshots/$snapshot/metadata/k", Read, 200),
    put("/v3/snapshots/{id}/metadata/{key}", "/v3/snapshots/$snapshot/metadata/k", r#"{"meta":{"k":"b"}}"#, Write, 200),
    delete("/v3/snapshots/{id}/metadata/{key}", "/v3/snapshots/$snapshot/metadata/k", Write, 200),
    post("/v3/snapshots/{id}/action", "/v3/snapshots/$snapshot/action", r#"{"os-reset_status":{"status":"error"}}"#, Manage, 202),
    post("/v3/snapshots/{id}/action", "/v3/snapshots/$snapshot/action", r#"{"os-force_delete":{}}"#, Manage, 202),

    // Backups.
    get("/v3/backups", "", ListHere("$backup"), 200),
    get("/v3/backups", "/v3/backups?all_tenants=1", ListAcross("$backup"), 200),
    get("/v3/backups/detail", "", ListHere("$backup"), 200),
    get("/v3/backups/{id}", "/v3/backups/$backup", Read, 200),
    post("/v3/backups", "", r#"{"backup":{"volume_id":"$volume"}}"#, Write, 202),
    post("/v3/backups", "", r#"{"backup":{"volume_id":"$based","snapshot_id":"$snapshot"}}"#, Write, 202),
    put("/v3/backups/{id}", "/v3/backups/$backup", r#"{"backup":{"name":"$new"}}"#, Write, 200),
    delete("/v3/backups/{id}", "/v3/backups/$backup", Write, 202),
    post("/v3/backups/{id}/restore", "/v3/backups/$backup/restore", r#"{"restore":{}}"#, Write, 202),
    post("/v3/backups/{id}/restore", "/v3/backups/$backup/restore", r#"{"restore":{"volume_id":"$volume"}}"#, Write, 202),
    // Nothing that was really stored is there: administrators are told so.
    get("/v3/backups/{id}/export_record", "/v3/backups/$backup/export_record", Admin, 404),
    post("/v3/backups/import_record", "", r#"{"backup-record":{"backup_service":"cairn","backup_url":"x"}}"#, Admin, 400),
    post("/v3/backups/{id}/action", "/v3/backups/$backup/action", r#"{"os-reset_status":{"status":"error"}}"#, Manage, 202),
    post("/v3/backups/{id}/action", "/v3/backups/$backup/action", r#"{"os-force_delete":{}}"#, Manage, 202),

    // Groups.
    get("/v3/groups", "", ListHere("$group"), 200),
    get("/v3/groups", "/v3/groups?all_tenants=1", ListAcross("$group"), 200),
    get("/v3/groups/detail", "", ListHere("$group"), 200),
    get("/v3/groups/detail", "/v3/groups/detail?list_volume=true", ListHere("$grouped"), 200),
    get("/v3/groups/detail", "/v3/groups/detail?all_tenants=1&list_volume=true", ListAcross("$grouped"), 200),
    get("/v3/groups/{id}", "/v3/groups/$group?list_volume=true", Read, 200),
    post("/v3/groups", "", r#"{"group":{"group_type":"$grouptype","volume_types":["$type"]}}"#, Create, 202),
    post("/v3/groups", "", r#"{"group":{"group_type":"$grouptype","volume_types":["$private"]}}"#, Write, 202),
    post("/v3/groups", "", r#"{"group":{"group_type":"$secret","volume_types":["$type"]}}"#, SecretWrite, 202),
    post("/v3/groups/action", "", r#"{"create-from-src":{"source_group_id":"$group"}}"#, Write, 202),
    post("/v3/groups/action", "", r#"{"create-from-src":{"group_snapshot_id":"$frozen"}}"#, Write, 202),
    put("/v3/groups/{id}", "/v3/groups/$group", r#"{"group":{"name":"$new"}}"#, Write, 202),
    put("/v3/groups/{id}", "/v3/groups/$empty", r#"{"group":{"add_volumes":"$volume"}}"#, Write, 202),
    put("/v3/groups/{id}", "/v3/groups/$group", r#"{"group":{"remove_volumes":"$grouped"}}"#, Write, 202),
    post("/v3/groups/{id}/action", "/v3/groups/$empty/action", r#"{"delete":{}}"#, Write, 202),
    post("/v3/groups/{id}/action", "/v3/groups/$bunch/action", r#"{"delete":{"delete-volumes":true}}"#, Write, 202),
    post("/v3/groups/{id}/action", "/v3/groups/$group/action", r#"{"reset_status":{"status":"error"}}"#, Manage, 202),
    post("/v3/volumes", "", r#"{"volume":{"size":1,"group_id":"$empty"}}"#, Join, 202),

    // Snapshots of groups.
    get("/v3/group_snapshots", "", ListHere("$frozen"), 200),
    get("/v3/group_snapshots", "/v3/group_snapshots?all_tenants=1", ListAcross("$frozen"), 200),
    get("/v3/group_snapshots/detail", "", ListHere("$frozen"), 200),
    get("/v3/group_snapshots/detail", "/v3/group_snapshots/detail?all_tenants=1", ListAcross("$frozen"), 200),
    get("/v3/group_snapshots/{id}", "/v3/group_snapshots/$frozen", Read, 200),
    post("/v3/group_snapshots", "", r#"{"group_snapshot":{"group_id":"$group"}}"#, Write, 202),
    put("/v3/group_snapshots/{id}", "/v3/group_snapshots/$frozen", r#"{"group_snapshot":{"name":"$new"}}"#, Write, 200),
    delete("/v3/group_snapshots/{id}", "/v3/group_snapshots/$frozen", Write, 202),
    post("/v3/group_snapshots/{id}/action", "/v3/group_snapshots/$frozen/action", r#"{"reset_status":{"status":"error"}}"#, Manage, 202),

    // Types of groups.
    get("/v3/group_types", "", Anyone, 200),
    get("/v3/group_types", "/v3/group_types?is_public=None", ListAdmin("$secret"), 200),
    get("/v3/group_types", "/v3/group_types?is_public=false", ListAdmin("$secret"), 200),
    get("/v3/group_types/{id}", "/v3/group_types/$grouptype", Anyone, 200),
    get("/v3/group_types/{id}", "/v3/group_types/$secret", Secret, 200),
    post("/v3/group_types", "", r#"{"group_type":{"name":"$new"}}"#, Admin, 202),
    put("/v3/group_types/{id}", "/v3/group_types/$grouptype", r#"{"group_type":{"name":"$new"}}"#, Admin, 200),
    delete("/v3/group_types/{id}", "/v3/group_types/$secret", Admin, 202),
    delete("/v3/group_types/{id}", "/v3/group_types/$grouptype", Admin, 400),
    get("/v3/group_types/{id}/group_specs", "/v3/group_types/$grouptype/group_specs", Admin, 200),
    post("/v3/group_types/{id}/group_specs", "/v3/group_types/$grouptype/group_specs", r#"{"group_specs":{"a":"b"}}"#, Admin, 202),
    get("/v3/group_types/{id}/group_specs/{key}", "/v3/group_types/$grouptype/group_specs/k", Admin, 200),
    put("/v3/group_types/{id}/group_specs/{key}", "/v3/group_types/$grouptype/group_specs/k", r#"{"k":"b"}"#, Admin, 200),
    delete("/v3/group_types/{id}/group_specs/{key}", "/v3/group_types/$grouptype/group_specs/k", Admin, 202),

    // Types.
    get("/v3/types", "", Anyone, 200),
    get("/v3/types", "/v3/types?is_public=None", ListAcross("$private"), 200),
    get("/v3/types/{id}", "/v3/types/$type", Anyone, 200),
    get("/v3/types/{id}", "/v3/types/$private", Read, 200),
    post("/v3/types", "", r#"{"volume_type":{"name":"$new"}}"#, Admin, 200),
    put("/v3/types/{id}", "/v3/types/$type", r#"{"volume_type":{"name":"$new"}}"#, Admin, 200),
    delete("/v3/types/{id}", "/v3/types/$type", Admin, 202),
    get("/v3/types/{id}/extra_specs", "/v3/types/$private/extra_specs", Read, 200),
    post("/v3/types/{id}/extra_specs", "/v3/types/$type/extra_specs", r#"{"extra_specs":{"a":"b"}}"#, Admin, 200),
    get("/v3/types/{id}/extra_specs/{key}", "/v3/types/$private/extra_specs/k", Read, 200),
    put("/v3/types/{id}/extra_specs/{key}", "/v3/types/$type/extra_specs/k", r#"{"k":"b"}"#, Admin, 200),
    delete("/v3/types/{id}/extra_specs/{key}", "/v3/types/$type/extra_specs/k", Admin, 202),
    get("/v3/types/{id}/encryption", "/v3/types/$private/encryption", Read, 200),
    get("/v3/types/{id}/os-volume-type-access", "/v3/types/$private/os-volume-type-access", Admin, 200),
    post("/v3/types/{id}/action", "/v3/types/$private/action", r#"{"addProjectAccess":{"project":"$new"}}"#, Admin, 202),
    post("/v3/types/{id}/action", "/v3/types/$private/action", r#"{"removeProjectAccess":{"project":"$project"}}"#, Admin, 202),

    // Default types of projects: `$usual` is that of `$spare`.
    get("/v3/default-types", "", Admin, 200),
    get("/v3/default-types/", "", Admin, 200),
    get("/v3/default-types/{project}", "/v3/default-types/$spare", Admin, 200),
    get("/v3/default-types/{project}", "/v3/default-types/$project", Admin, 404),
    put("/v3/default-types/{project}", "/v3/default-types/$spare", r#"{"default_type":{"volume_type":"$type"}}"#, Admin, 200),
    put("/v3/default-types/{project}", "/v3/default-types/$new", r#"{"default_type":{"volume_type":"$type"}}"#, Admin, 404),
    delete("/v3/default-types/{project}", "/v3/default-types/$spare", Admin, 204),
    delete("/v3/types/{id}", "/v3/types/$usual", Admin, 400),

    // QoS specs.
    get("/v3/qos-specs", "", Admin, 200),
    post("/v3/qos-specs", "", r#"{"qos_specs":{"name":"$new"}}"#, Admin, 200),
    get("/v3/qos-specs/{id}", "/v3/qos-specs/$qos", Admin, 200),
    put("/v3/qos-specs/{id}", "/v3/qos-specs/$qos", r#"{"qos_specs":{"read_iops_sec":"9"}}"#, Admin, 200),
    delete("/v3/qos-specs/{id}", "/v3/qos-specs/$loose", Admin, 202),
    put("/v3/qos-specs/{id}/delete_keys", "/v3/qos-specs/$qos/delete_keys", r#"{"keys":["read_iops_sec"]}"#, Admin, 202),
    get("/v3/qos-specs/{id}/associations", "/v3/qos-specs/$qos/associations", Admin, 200),
    get("/v3/qos-specs/{id}/associate", "/v3/qos-specs/$loose/associate?vol_type_id=$type", Admin, 202),
    get("/v3/qos-specs/{id}/disassociate", "/v3/qos-specs/$qos/disassociate?vol_type_id=$private", Admin, 202),
    get("/v3/qos-specs/{id}/disassociate_all", "/v3/qos-specs/$qos/disassociate_all", Admin, 202),

    // Quotas.
    get("/v3/os-quota-sets/{project}", "/v3/os-quota-sets/$project?usage=true", Quota, 200),
    get("/v3/os-quota-sets/{project}/defaults", "/v3/os-quota-sets/$project/defaults", Anyone, 200),
    put("/v3/os-quota-sets/{project}", "/v3/os-quota-sets/$spare", r#"{"quota_set":{"volumes":5}}"#, Admin, 200),
    delete("/v3/os-quota-sets/{project}", "/v3/os-quota-sets/$spare", Admin, 200),
    get("/v3/os-quota-class-sets/{class}", "/v3/os-quota-class-sets/default", Anyone, 200),
    put("/v3/os-quota-class-sets/{class}", "/v3/os-quota-class-sets/default", r#"{"quota_class_set":{"groups":5}}"#, Admin, 200),

    // The service.
    get("/v3/limits", "", Anyone, 200),
    get("/v3/limits", "/v3/limits?project_id=$project", Anyone, 200),
    get("/v3/extensions", "", Anyone, 200),
    get("/v3/resource_filters", "", Anyone, 200),
    get("/v3/resource_filters", "/v3/resource_filters?resource=volume", Anyone, 200),
    get("/v3/os-services", "", Admin, 200),
    get("/v3/os-availability-zone", "", Anyone, 200),
    get("/v3/scheduler-stats/get_pools", "/v3/scheduler-stats/get_pools?detail=true", Admin, 200),
    get("/v3/messages", "", ListHere("$message"), 200),
    get("/v3/messages", "/v3/messages?all_tenants=1", ListAcross("$message"), 200),
    get("/v3/messages/{id}", "/v3/messages/$message", Read, 200),
    delete("/v3/messages/{id}", "/v3/messages/$message", Write, 204),

    // Images. `$image` has no content yet, `$disk` and `$poster` have; all may read `$poster`.
    get("/image", "", Open, 300),
    get("/image/", "", Open, 300),
    get("/image/versions", "", Open, 300),
    get("/image/v2", "", Open, 300),
    get("/image/v2/", "", Open, 300),
    get("/image/v2/schemas/image", "", Anyone, 200),
    get("/image/v2/schemas/images", "", Anyone, 200),
    get("/image/v2/info/usage", "", Anyone, 200),
    get("/image/v2/images", "/image/v2/images?limit=1000", ListAcross("$image"), 200),
    get("/image/v2/images", "/image/v2/images?limit=1000&owner=$project&visibility=private", ListAcross("$disk"), 200),
    get("/image/v2/images", "/image/v2/images?limit=1000&visibility=public&name=$poster", Anyone, 200),
    post("/image/v2/images", "", r#"{"name":"$new","disk_format":"raw","container_format":"bare","a":"b"}"#, Create, 201),
    post("/image/v2/images", "", r#"{"name":"$new","visibility":"public"}"#, Admin, 201),
    get("/image/v2/images/{id}", "/image/v2/images/$image", Read, 200),
    get("/image/v2/images/{id}", "/image/v2/images/$poster", Anyone, 200),
    patch("/image/v2/images/{id}", "/image/v2/images/$image", r#"[{"op":"replace","path":"/name","value":"$new"}]"#, Write, 200),
    patch("/image/v2/images/{id}", "/image/v2/images/$poster", r#"[{"op":"replace","path":"/name","value":"$new"}]"#, Shown, 200),
    patch("/image/v2/images/{id}", "/image/v2/images/$image", r#"[{"op":"replace","path":"/visibility","value":"public"}]"#, Manage, 200),
    delete("/image/v2/images/{id}", "/image/v2/images/$image", Write, 204),
    delete("/image/v2/images/{id}", "/image/v2/images/$disk", Write, 204),
    delete("/image/v2/images/{id}", "/image/v2/images/$poster", Shown, 204),
    get("/image/v2/images/{id}/file", "/image/v2/images/$image/file", Read, 204),
    put("/image/v2/images/{id}/file", "/image/v2/images/$image/file", "the bytes of an image", Write, 204),
    put("/image/v2/images/{id}/file", "/image/v2/images/$poster/file", "other bytes", Shown, 409),
    put("/image/v2/images/{id}/tags/{tag}", "/image/v2/images/$image/tags/t", "", Write, 204),
    delete("/image/v2/images/{id}/tags/{tag}", "/image/v2/images/$disk/tags/t", Write, 204),
    get("/image/v2/images/{id}/members", "/image/v2/images/$image/members", Read, 200),
    post("/v3/volumes", "", r#"{"volume":{"size":1,"imageRef":"$disk"}}"#, Write, 202),
    post("/v3/volumes", "", r#"{"volume":{"size":1,"imageRef":"$poster"}}"#, Create, 202),
    post(ACTION, ON_VOLUME, r#"{"os-volume_upload_image":{"image_name":"$new"}}"#, Write, 202),
    post(ACTION, ON_VOLUME, r#"{"os-volume_upload_image":{"image_name":"$new","visibility":"public"}}"#, Manage, 202),
    get("/cairn/v1/quotas/{project}/images", "/cairn/v1/quotas/$project/images", Quota, 200),
    patch("/cairn/v1/quotas/{project}/images", "/cairn/v1/quotas/$spare/images", r#"{"images":5}"#, Admin, 200),

    // Tokens. The subject of each request is the token of the user that is named.
    get("/identity", "", Open, 300),
    get("/identity/", "", Open, 300),
    get("/identity/v3", "", Open, 200),
    get("/identity/v3/", "", Open, 200),
    post("/identity/v3/auth/tokens", "", r#"{"auth":{"identity":{"methods":["password"],"password":{"user":{"id":"$user","password":"the password"}}}}}"#, Open, 201),
    post("/identity/v3/auth/tokens", "", r#"{"auth":{"identity":{"methods":["password"],"password":{"user":{"id":"$user","password":"no"}}}}}"#, Open, 401),
    get("/identity/v3/auth/tokens", "", OwnOrAdmin, 200),
    delete("/identity/v3/auth/tokens", "", OwnOrAdmin, 204),
    get("/identity/v3/auth/catalog", "", Anyone, 200),
    get("/identity/v3/auth/projects", "", ListHere("$project"), 200),
    get("/identity/v3/auth/domains", "", Anyone, 200),
    get("/identity/v3/domains", "", Anyone, 200),
    get("/identity/v3/domains/{id}", "/identity/v3/domains/default", Anyone, 200),

    // Projects.
    get("/identity/v3/projects", "", ListAcross("$project"), 200),
    get("/identity/v3/projects", "/identity/v3/projects?name=$spare", Anyone, 200),
    get("/identity/v3/projects/{id}", "/identity/v3/projects/$project", Read, 200),
    post("/identity/v3/projects", "", r#"{"project":{"name":"$new"}}"#, Admin, 201),
    patch("/identity/v3/projects/{id}", "/identity/v3/projects/$spare", r#"{"project":{"enabled":false}}"#, Admin, 200),
    delete("/identity/v3/projects/{id}", "/identity/v3/projects/$spare", Admin, 204),
    delete("/identity/v3/projects/{id}", "/identity/v3/projects/$project", Admin, 409),

    // Users, and their roles.
    get("/identity/v3/users", "", ListOwn("$user"), 200),
    get("/identity/v3/users/{id}", "/identity/v3/users/$user", OwnOrAdmin, 200),
    post("/identity/v3/users", "", r#"{"user":{"name":"$new"}}"#, Admin, 201),
    patch("/identity/v3/users/{id}", "/identity/v3/users/$user", r#"{"user":{"email":"a@b"}}"#, Admin, 200),
    delete("/identity/v3/users/{id}", "/identity/v3/users/$user", Admin, 204),
    get("/identity/v3/users/{id}/projects", "/identity/v3/users/$user/projects", OwnOrAdmin, 200),
    post("/identity/v3/users/{id}/password", "/identity/v3/users/$user/password", r#"{"user":{"original_password":"the password","password":"another one"}}"#, Own, 204),
    get("/identity/v3/roles", "", Anyone, 200),
    get("/identity/v3/roles/{id}", "/identity/v3/roles/role-member", Anyone, 200),
    get("/identity/v3/role_assignments", "", ListOwn("$user"), 200),
    get("/identity/v3/role_assignments", "/identity/v3/role_assignments?include_names=true&effective", ListOwn("$user"), 200),
    get("/identity/v3/projects/{id}/users/{user}/roles", "/identity/v3/projects/$project/users/$user/roles", OwnOrAdmin, 200),
    get("/identity/v3/projects/{id}/users/{user}/roles/{role}", "/identity/v3/projects/$project/users/$user/roles/role-member", OwnOrAdmin, 204),
    put("/identity/v3/projects/{id}/users/{user}/roles/{role}", "/identity/v3/projects/$spare/users/$user/roles/role-admin", "", Admin, 204),
    delete("/identity/v3/projects/{id}/users/{user}/roles/{role}", "/identity/v3/projects/$project/users/$user/roles/role-member", Admin, 204),

    // What people and programs log in with.
    get("/identity/v3/users/{id}/application_credentials", "/identity/v3/users/$user/application_credentials", OwnOrAdmin, 200),
    post("/identity/v3/users/{id}/application_credentials", "/identity/v3/users/$user/application_credentials", r#"{"application_credential":{"name":"$new"}}"#, Own, 201),
    get("/identity/v3/users/{id}/application_credentials/{credential}", "/identity/v3/users/$user/application_credentials/$app", OwnOrAdmin, 200),
    delete("/identity/v3/users/{id}/application_credentials/{credential}", "/identity/v3/users/$user/application_credentials/$app", OwnOrAdmin, 204),
    get("/identity/v3/credentials", "", ListOwn("$key"), 200),
    get("/identity/v3/credentials", "/identity/v3/credentials?user_id=$user", ListOwn("$key"), 200),
    post("/identity/v3/credentials", "", r#"{"credential":{"type":"totp","user_id":"$user","blob":"GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"}}"#, OwnOrAdmin, 201),
    get("/identity/v3/credentials/{id}", "/identity/v3/credentials/$key", OwnOrAdmin, 200),
    delete("/identity/v3/credentials/{id}", "/identity/v3/credentials/$key", OwnOrAdmin, 204),
];
