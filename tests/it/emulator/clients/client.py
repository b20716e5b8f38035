"""Microsoft's Python device client, unmodified: a device registers over MQTT, then lives at its hub.

Argument: JSON {host, scope, ca, devices}, each device {id, key} or {id, certificate, private_key}, the latter two as
files. Prints a JSON object a device: what it read, was told, and reported.
"""

import json
import queue
import sys

import requests
from azure.iot.device import IoTHubDeviceClient, Message, ProvisioningDeviceClient, X509

WAIT = 20  # seconds for anything


def live(given, device):
    """The life of one device, from its first contact to its first message."""
    with open(given["ca"], encoding="ascii") as file:
        trust = {"server_verification_cert": file.read()}
    if "key" in device:
        key = {"symmetric_key": device["key"]}
        register, connect = (
            ProvisioningDeviceClient.create_from_symmetric_key,
            IoTHubDeviceClient.create_from_symmetric_key,
        )
    else:
        key = {"x509": X509(device["certificate"], device["private_key"])}
        register, connect = (
            ProvisioningDeviceClient.create_from_x509_certificate,
            IoTHubDeviceClient.create_from_x509_certificate,
        )
    result = register(
        provisioning_host=given["host"],
        registration_id=device["id"],
        id_scope=given["scope"],
        **key,
        **trust,
    ).register()
    state = result.registration_state
    if result.status != "assigned":
        return {"id": device["id"], "status": result.status}
    client = connect(hostname=state.assigned_hub, device_id=state.device_id, **key, **trust)
    told = queue.Queue()
    client.on_twin_desired_properties_patch_received = told.put
    client.connect()
    twin = client.get_twin()
    # The back end's part, at the emulator's own route.
    changed = requests.patch(
        f"https://{given['host']}/emulator/twins/{state.assigned_hub}/{state.device_id}",
        json={"properties": {"desired": {"mode": "night"}}},
        verify=given["ca"],
        timeout=WAIT,
    )
    changed.raise_for_status()
    patch = told.get(timeout=WAIT)
    client.patch_twin_reported_properties({"mode": patch["mode"]})
    client.send_message(Message("hello", content_encoding="utf-8", content_type="text/plain"))
    after = client.get_twin()
    client.shutdown()
    return {
        "id": device["id"],
        "hub": state.assigned_hub,
        "device": state.device_id,
        "first": twin,
        "told": patch,
        "last": after,
    }


def main():
    given = json.loads(sys.argv[1])
    for device in given["devices"]:
        print(json.dumps(live(given, device)), flush=True)


main()
