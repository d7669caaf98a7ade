"""MSAL for Python, driven by msal.rs: each line of stdin is a command in JSON, each line of stdout what became of it."""

import json
import sys
import time
import warnings
from types import SimpleNamespace

import msal
import requests


class HttpClient:
    """What MSAL takes for https is the test's identity platform, which speaks http. Keeps a list of what was sent."""

    def __init__(self, origin):
        self.origin = origin
        self.sent = []
        self.session = requests.Session()
        self.session.trust_env = False  # a proxy is elsewhere

    def _send(self, method, url, **kwargs):
        self.sent.append({"method": method, "url": url, "form": kwargs.get("data")})
        path = url.split("/", 3)[3]
        response = self.session.request(method, f"{self.origin}/{path}", timeout=30, **kwargs)
        # In the metadata MSAL accepts https endpoints only.
        text = response.text.replace("http://", "https://") if method == "GET" else response.text
        return SimpleNamespace(status_code=response.status_code, headers=response.headers, text=text)

    def get(self, url, params=None, headers=None, **kwargs):
        return self._send("GET", url, params=params, headers=headers)

    def post(self, url, params=None, data=None, headers=None, **kwargs):
        return self._send("POST", url, params=params, data=data, headers=headers)

    def close(self):
        self.session.close()


def run(command):
    cache = msal.SerializableTokenCache()
    cache.deserialize(command.get("cache"))
    http_client = HttpClient(command["origin"])
    client = msal.ConfidentialClientApplication(
        command["client_id"],
        client_credential=command["client_secret"],
        authority=command["authority"],
        client_capabilities=["cp1"],
        token_cache=cache,
        http_client=http_client,
        # The test's host is none of Microsoft's, and nobody is to be asked about it.
        instance_discovery=False,
    )
    http_client.sent.clear()

    def accounts():
        """The account of the command's user, or the only one."""
        user = command.get("local_account_id")
        return [account for account in client.get_accounts() if user in (None, account["local_account_id"])]

    scopes = command["scopes"]
    results = []
    for step in command["steps"]:
        if step == "get_accounts":
            result = client.get_accounts()
        elif step == "acquire_token_silent":
            [account] = accounts()
            result = client.acquire_token_silent_with_error(scopes, account)
        elif step == "remove_account":
            [account] = accounts()
            result = client.remove_account(account)
        elif step == "initiate_auth_code_flow":
            result = client.initiate_auth_code_flow(scopes, redirect_uri=command["redirect_uri"])
        elif step == "acquire_token_by_auth_code_flow":
            result = client.acquire_token_by_auth_code_flow(command["flow"], command["auth_response"])
        elif step == "acquire_token_by_authorization_code":
            result = client.acquire_token_by_authorization_code(
                command["code"], scopes, redirect_uri=command["redirect_uri"]
            )
        else:
            raise ValueError(step)
        results.append(result)
    return {"results": results, "sent": http_client.sent, "cache": cache.serialize()}


warnings.simplefilter("ignore")
real_time = time.time
for line in sys.stdin:
    command = json.loads(line)
    now = command.get("now")
    time.time = real_time if now is None else lambda: now
    print(json.dumps(run(command)), flush=True)
