// Microsoft's Node clients, unmodified: the service client enrolls, the device client registers over HTTPS.
// Argument: JSON {connection, host, scope, certificate, key, endorsementKey}. Prints one JSON object.
'use strict';
const { createHmac } = require('crypto');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { Http } = require('azure-iot-provisioning-device-http');
const { X509Security } = require('azure-iot-security-x509');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');

const given = JSON.parse(process.argv[2]);
const service = ProvisioningServiceClient.fromConnectionString(given.connection);
// Callbacks, not promises: those of some of its calls never end, and those of a query forget which page is next.
const ask = (name, ...given) => new Promise((resolve, reject) => {
  service[name](...given, (error, result) => (error ? reject(error) : resolve(result)));
});

async function register(security) {
  const client = ProvisioningDeviceClient.create(given.host, given.scope, new Http(), security);
  client.setProvisioningPayload({ made: 'here' });
  const { status, substatus, deviceId, assignedHub } = await client.register();
  return { status, substatus, deviceId, assignedHub };
}

async function pages(query) {
  const found = [];
  do {
    const result = await new Promise((resolve, reject) => {
      query.next((error, page) => (error ? reject(error) : resolve(page)));
    });
    found.push(result.map((record) => record.registrationId || record.enrollmentGroupId));
  } while (query.hasMoreResults);
  return found;
}

async function main() {
  const said = {};
  const certificate = { primary: { certificate: given.certificate } };
  const x509 = { type: 'x509', x509: { clientCertificates: certificate } };
  const tpm = { type: 'tpm', tpm: { endorsementKey: given.endorsementKey } };
  const keys = { type: 'symmetricKey' };
  const made = await ask('createOrUpdateIndividualEnrollment', {
    registrationId: 'node-x509', deviceId: 'node-1', attestation: x509,
    initialTwin: { tags: { line: '3' }, properties: { desired: { rate: 5 } } },
  });
  made.provisioningStatus = 'enabled';
  const updated = await ask('createOrUpdateIndividualEnrollment', made);
  said.updated = updated.etag !== made.etag;
  try {
    await ask('createOrUpdateIndividualEnrollment', made);
  } catch (error) {
    said.stale = error.response.statusCode;
  }
  await ask('createOrUpdateIndividualEnrollment', { registrationId: 'node-key', attestation: keys });
  await ask('createOrUpdateEnrollmentGroup', { enrollmentGroupId: 'node-group', attestation: keys });
  const bulk = (mode, ids) => ask('runBulkEnrollmentOperation', {
    mode, enrollments: ids.map((registrationId) => ({ registrationId, attestation: tpm })),
  });
  const ids = Array.from({ length: 10 }, (_, n) => `node-tpm-${n}`);
  said.bulk = await bulk('create', ids);
  said.again = await bulk('create', ids.slice(0, 1));
  said.pages = await pages(service.createIndividualEnrollmentQuery({ query: '*' }, 5));
  said.groups = await pages(service.createEnrollmentGroupQuery({ query: '*' }));
  said.gone = await bulk('delete', ids);
  said.read = (await ask('getIndividualEnrollment', 'node-x509')).deviceId;

  const own = await ask('getIndividualEnrollmentAttestationMechanism', 'node-key');
  const group = await ask('getEnrollmentGroupAttestationMechanism', 'node-group');
  const secret = Buffer.from(group.symmetricKey.primaryKey, 'base64');
  const derived = createHmac('sha256', secret).update('node-member').digest('base64');
  said.registered = [
    await register(new X509Security('node-x509', { cert: given.certificate, key: given.key })),
    await register(new SymmetricKeySecurityClient('node-key', own.symmetricKey.secondaryKey)),
    await register(new SymmetricKeySecurityClient('node-member', derived)),
  ];
  try {
    await register(new SymmetricKeySecurityClient('node-member', secret.toString('base64')));
  } catch (error) {
    said.refused = error.name;
  }
  said.state = (await ask('getDeviceRegistrationState', 'node-x509')).status;
  const members = { query: '*' };
  said.members = await pages(
    service.createEnrollmentGroupDeviceRegistrationStateQuery(members, 'node-group'));
  await ask('deleteDeviceRegistrationState', 'node-key');
  await ask('deleteIndividualEnrollment', 'node-key');
  await ask('deleteEnrollmentGroup', 'node-group');
  console.log(JSON.stringify(said));
}

main().catch((error) => {
  console.error(error, error.response && error.response.statusCode, error.responseBody);
  process.exit(1);
});
