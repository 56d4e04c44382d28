"""How the scripts with python-cinderclient ask: as a user of a project, without an identity service; and how they wait, and are refused."""

import json
import os
import time
import urllib.error
import urllib.request

from cinderclient import client, exceptions
from cinderclient.contrib import noauth
from keystoneauth1 import session

ENDPOINT = os.environ["CINDER_ENDPOINT"]


def cinder_of(project, version="3.71"):
    auth = noauth.CinderNoAuthPlugin("me", project, endpoint=ENDPOINT)
    return client.Client(version, session=session.Session(auth=auth))


def refused(code, call, *args, says="", **kwargs):
    """The refusal has this code, and these words in it."""
    try:
        call(*args, **kwargs)
    except exceptions.ClientException as error:
        assert error.code == code and says in str(error), error
        return
    raise AssertionError(f"{call} was not refused")


def rests(manager, thing, status="available"):
    for _ in range(2000):
        thing = manager.get(thing.id)
        if thing.status == status:
            return thing
        assert not thing.status.startswith("error"), thing.status
        time.sleep(0.05)
    raise AssertionError(f"{thing.id} stays {thing.status}")


def goes(manager, thing):
    for _ in range(2000):
        try:
            manager.get(thing.id)
        except exceptions.NotFound:
            return
        time.sleep(0.05)
    raise AssertionError(f"{thing.id} stays")


def ask(method, path, body=None, version="3.71", project="p"):
    """What no client sends: status and body of the answer. The path stands behind the project's, or, with a slash, behind the host."""
    host = ENDPOINT.removesuffix("/v3")
    url = host + path if path.startswith("/") else f"{ENDPOINT}/{project}/{path}"
    headers = {
        "X-Auth-Token": f"me:{project}",
        "OpenStack-API-Version": f"volume {version}",
        "Content-Type": "application/json",
    }
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    return status, json.loads(text) if text else None
