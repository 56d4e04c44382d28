"""openstacksdk, with logins: a name of a user or a project is given once, and nobody gets more credentials than are allowed, however many ask at
one moment."""

import os
import threading

import openstack
from openstack import exceptions

CLIENTS = 8
CREDENTIALS = 5
PASSWORD = os.environ["CAIRN_PASSWORD"]


def connect(user, password, project):
    return openstack.connect(
        load_yaml_config=False,
        load_envvars=False,
        auth_type="password",
        auth=dict(
            auth_url=os.environ["CAIRN_URL"] + "/identity/v3",
            username=user,
            password=password,
            project_name=project,
            user_domain_id="default",
            project_domain_id="default",
        ),
        identity_api_version="3",
    ).identity


def race(identities, call):
    gate, got, refused, failed = threading.Barrier(len(identities)), [], [], []

    def run(identity, n):
        gate.wait()
        try:
            got.append(call(identity, n))
        except exceptions.HttpException as error:
            refused.append(error.status_code)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(identity, n)) for n, identity in enumerate(identities)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failed:
        raise failure
    return got, refused


admins = [connect("admin", PASSWORD, "admin") for _ in range(CLIENTS)]
identity = admins[0]
for one in admins:
    list(one.projects())
for n in range(4):
    name = f"name-{n}"
    made, refused = race(admins, lambda identity, _: identity.create_project(name=name, domain_id="default"))
    assert (len(made), refused) == (1, [409] * (CLIENTS - 1)), (made, refused)
    assert [project.id for project in identity.projects(name=name)] == [made[0].id]
    password = f"Kd9-of-{name}"
    made, refused = race(admins, lambda identity, _: identity.create_user(name=name, password=password, domain_id="default"))
    assert (len(made), refused) == (1, [409] * (CLIENTS - 1)), (made, refused)
    assert [user.name for user in identity.users()].count(name) == 1
    member = identity.find_role("member")
    identity.assign_project_role_to_user(identity.find_project(name), made[0], member)
    # The one who got the name asks for too many credentials at once, all with other names; then with one name.
    own = [connect(name, password, name) for _ in range(CLIENTS)]
    me = made[0].id
    got, refused = race(own, lambda identity, c: identity.create_application_credential(me, f"program-{c}"))
    assert len(got) == CREDENTIALS and set(refused) <= {400, 403, 409}, (got, refused)
    assert len(list(own[0].application_credentials(me))) == CREDENTIALS
    for credential in got:
        own[0].delete_application_credential(me, credential.id)
    got, refused = race(own, lambda identity, _: identity.create_application_credential(me, "program"))
    assert (len(got), refused) == (1, [409] * (CLIENTS - 1)), (got, refused)
