"""Logins and people by openstacksdk and keystoneauth, against a daemon. The last line is all secrets that were sent or got."""
import base64
import hashlib
import hmac
import json
import os
import struct
import time

import openstack
from keystoneauth1 import exceptions
from keystoneauth1.identity import v3
from keystoneauth1.session import Session

URL = os.environ["CAIRN_URL"] + "/identity/v3"
secrets = []


def secret(text):
    secrets.append(text)
    return text


def connect(auth):
    connection = openstack.connection.Connection(
        session=Session(auth=auth), identity_api_version="3", block_storage_api_version="3"
    )
    secret(connection.session.get_token())
    return connection


def password(user, text, **more):
    return v3.Password(URL, username=user, password=text, user_domain_id="default", **more)


def scoped(user, text, project):
    return password(user, text, project_name=project, project_domain_id="default")


def refused(kind, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except kind:
        return
    raise AssertionError(f"{call} was not refused")


def code(key, step):
    digest = hmac.new(base64.b32decode(key), struct.pack(">Q", step), hashlib.sha1).digest()
    at = digest[-1] & 15
    return "%06d" % ((struct.unpack(">I", digest[at : at + 4])[0] & 0x7FFFFFFF) % 10**6)


used = set()


def passcode(key):
    """A code that was not used yet: that of now, of a moment ago, or of the next moment."""
    while True:
        now = int(time.time()) // 30
        for step in (now, now + 1):
            # Earlier ones are not taken after later ones.
            if all(step > other for other in used):
                used.add(step)
                return code(key, step)
        time.sleep(0.5)


# The administrator makes a project and users.
admin = connect(scoped("admin", os.environ["CAIRN_PASSWORD"], "admin"))
identity = admin.identity
project = identity.create_project(name="demo", description="to try", domain_id="default")
other = identity.create_project(name="other", domain_id="default")
me = identity.create_user(name="me", password=secret("Vb8-my-password"), domain_id="default", default_project_id=project.id)
reader = identity.create_user(name="reader", password=secret("Nn2-readers-password"), domain_id="default")
roles = {role.name: role for role in identity.roles()}
assert sorted(roles) == ["admin", "member", "reader"], roles
identity.assign_project_role_to_user(project, me, roles["member"])
identity.assign_project_role_to_user(project, reader, roles["reader"])
assert identity.validate_user_has_project_role(project, me, roles["member"])
assert not identity.validate_user_has_project_role(project, me, roles["admin"])
assert sorted(user.name for user in identity.users()) == ["admin", "me", "reader"]
assert identity.find_user("me").id == me.id and identity.find_project("demo").id == project.id
assert [p.name for p in identity.projects(name="other")] == ["other"]
assert [d.name for d in identity.domains()] == ["Default"]
found = list(identity.role_assignments(scope_project_id=project.id, include_names=True))
assert sorted(a.user["name"] for a in found) == ["me", "reader"], found
refused(openstack.exceptions.ConflictException, identity.create_user, name="me", domain_id="default")
identity.update_user(me, email="me@example.org")
assert identity.get_user(me.id).email == "me@example.org"

# A member sees and changes what is theirs.
mine = connect(scoped("me", "Vb8-my-password", "demo"))
volume = mine.block_storage.create_volume(name="mine", size=1)
assert [p.name for p in mine.identity.projects()] == ["demo"]
assert [u.name for u in mine.identity.users()] == ["me"]
refused(openstack.exceptions.ForbiddenException, mine.identity.create_user, name="x", domain_id="default")
refused(openstack.exceptions.NotFoundException, mine.identity.get_user, reader.id)
refused(openstack.exceptions.NotFoundException, mine.identity.get_project, other.id)
usual = connect(password("me", "Vb8-my-password"))
assert usual.current_project_id == project.id
assert {e["type"] for e in usual.session.auth.get_access(usual.session).service_catalog.catalog} >= {"identity", "block-storage"}

# What is the administrators' own, and types that are another project's.
SERVICE = os.environ["CAIRN_URL"]
for method, path in (("GET", "pools"), ("POST", "metering/close"), ("GET", "qos"), ("GET", "qos/pool")):
    refused(exceptions.Forbidden, mine.session.request, f"{SERVICE}/cairn/v1/{path}", method)
    assert admin.session.request(f"{SERVICE}/cairn/v1/{path}", method).status_code < 300, path
private = admin.block_storage.create_type(name="private", is_public=False)
admin.block_storage.add_type_access(private, other.id)
refused(openstack.exceptions.NotFoundException, mine.block_storage.create_volume, size=1, volume_type="private")
refused(openstack.exceptions.NotFoundException, mine.block_storage.get_type, private.id)
assert "private" not in [kind.name for kind in mine.block_storage.types()]
refused(openstack.exceptions.ForbiddenException, mine.block_storage.create_type, name="x")
admin.block_storage.add_type_access(private, project.id)
assert "private" in [kind.name for kind in mine.block_storage.types()]
# Its extra specs are for administrators.
assert mine.block_storage.get_type(private.id).extra_specs in (None, {})

# The default types of projects that there are; they go with them.
block = admin.block_storage
refused(openstack.exceptions.ForbiddenException, mine.block_storage.set_default_type, project, private)
refused(openstack.exceptions.ForbiddenException, lambda: list(mine.block_storage.default_types()))
refused(openstack.exceptions.NotFoundException, block.set_default_type, "nobody", private)
short = identity.create_project(name="short", domain_id="default")
for one in (short, project):
    block.set_default_type(one, private)
assert mine.block_storage.get_type("default").name == "private" and block.get_type("default").name == "__DEFAULT__"
refused(openstack.exceptions.BadRequestException, block.delete_type, private, ignore_missing=False)
identity.delete_project(short)
assert [(default.project_id, default.volume_type_id) for default in block.default_types()] == [(project.id, private.id)]
block.unset_default_type(project)
assert mine.block_storage.get_type("default").name == "__DEFAULT__"

# A reader sees it and changes nothing; who has no role does not come in.
looks = connect(scoped("reader", "Nn2-readers-password", "demo"))
assert [v.name for v in looks.block_storage.volumes()] == ["mine"]
refused(openstack.exceptions.ForbiddenException, looks.block_storage.create_volume, size=1)
for auth in (
    scoped("me", "Vb8-my-password", "other"),
    scoped("me", secret("Vb8-wrong-password"), "demo"),
    scoped("nobody", "Vb8-my-password", "demo"),
):
    refused(exceptions.Unauthorized, connect, auth)

# A token makes another one; one that is revoked makes none.
bare = connect(password("me", "Vb8-my-password", unscoped=True))
token = secret(bare.session.get_token())
again = connect(v3.Token(URL, token=token, project_id=project.id))
assert [v.name for v in again.block_storage.volumes()] == ["mine"]
checked = admin.session.get(URL + "/auth/tokens", headers={"X-Subject-Token": token}).json()["token"]
assert checked["user"]["name"] == "me" and "project" not in checked
assert admin.session.head(URL + "/auth/tokens", headers={"X-Subject-Token": token}).status_code == 200
admin.session.delete(URL + "/auth/tokens", headers={"X-Subject-Token": token})
refused(exceptions.Unauthorized, connect, v3.Token(URL, token=token, project_id=project.id))

# Application credentials.
made = mine.identity.create_application_credential(me.id, "program", roles=[{"name": "reader"}])
secret(made.secret)


def by_program():
    return v3.ApplicationCredential(
        URL, application_credential_id=made.id, application_credential_secret=made.secret
    )


shown = mine.session.get(f"{URL}/users/{me.id}/application_credentials/{made.id}").json()["application_credential"]
assert shown["name"] == "program" and "secret" not in shown and made.secret not in json.dumps(shown), shown
listed = mine.session.get(f"{URL}/users/{me.id}/application_credentials").json()["application_credentials"]
assert [one["id"] for one in listed] == [made.id] and made.secret not in json.dumps(listed), listed
refused(
    openstack.exceptions.BadRequestException,
    mine.identity.create_application_credential,
    me.id,
    "late",
    expires_at="2020-01-01T00:00:00",
)
runs = connect(by_program())
assert [v.name for v in runs.block_storage.volumes()] == ["mine"]
refused(openstack.exceptions.ForbiddenException, runs.block_storage.create_volume, size=1)
assert [c.name for c in mine.identity.application_credentials(me.id)] == ["program"]
chosen = mine.identity.create_application_credential(me.id, "chosen", secret=secret("Rt5-chosen-secret"), unrestricted=True)
connect(
    v3.ApplicationCredential(
        URL,
        application_credential_name="chosen",
        username="me",
        user_domain_id="default",
        application_credential_secret="Rt5-chosen-secret",
    )
)
mine.identity.delete_application_credential(me.id, made.id)
# What it got before, and what it would get now.
refused(exceptions.Unauthorized, runs.session.get, f"{URL}/users/{me.id}")
refused(exceptions.Unauthorized, connect, by_program())

# One-time passwords: alone, and together with the password when rules say so.
key = secret(base64.b32encode(os.urandom(20)).decode())
mine.identity.create_credential(type="totp", user_id=me.id, blob=key)
assert [c.type for c in mine.identity.credentials()] == ["totp"]
# At most five, none of which is shown again.
more = [secret(base64.b32encode(os.urandom(20)).decode()) for _ in range(5)]
devices = [mine.identity.create_credential(type="totp", user_id=me.id, blob=one) for one in more[:4]]
refused(
    openstack.exceptions.ForbiddenException, mine.identity.create_credential, type="totp", user_id=me.id, blob=more[4]
)
shown = [mine.session.get(f"{URL}/credentials/{device.id}").text for device in devices]
shown.append(mine.session.get(f"{URL}/credentials").text)
assert not [one for one in [key, *more] if one in "".join(shown)], shown
for device in devices:
    mine.identity.delete_credential(device)
assert len(list(mine.identity.credentials())) == 1


def by_code(one):
    return v3.TOTP(URL, username="me", user_domain_id="default", passcode=one, project_id=project.id)


first = passcode(key)
assert [v.name for v in connect(by_code(first)).block_storage.volumes()] == ["mine"]
refused(exceptions.Unauthorized, connect, by_code(first))
options = {"multi_factor_auth_enabled": True, "multi_factor_auth_rules": [["password", "totp"]]}
admin.session.patch(f"{URL}/users/{me.id}", json={"user": {"options": options}})
refused(exceptions.Unauthorized, connect, scoped("me", "Vb8-my-password", "demo"))
both = v3.MultiFactor(
    URL,
    auth_methods=["v3password", "v3totp"],
    username="me",
    user_domain_id="default",
    password="Vb8-my-password",
    passcode=passcode(key),
    project_id=project.id,
)
mine = connect(both)
assert mine.session.auth.get_access(mine.session).user_id == me.id

# Another password ends what the old one made.
body = {"user": {"original_password": "Vb8-my-password", "password": secret("Hy6-another-password")}}
mine.session.post(f"{URL}/users/{me.id}/password", json=body)
refused(exceptions.Unauthorized, mine.session.get, f"{URL}/users/{me.id}")
print(json.dumps(secrets))
