// The upload as people write it with Microsoft's own client: bulks of ten, then a GET each, four in flight.
// node upload.js CONNECTION_STRING FILE: a JSON line for each enrollment. Prints what it took, as one JSON line.
'use strict';
const fs = require('fs');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');

const [, , connectionString, file] = process.argv;
const client = ProvisioningServiceClient.fromConnectionString(connectionString);
const enrollments = fs.readFileSync(file, 'utf8').trim().split('\n').map((line) => JSON.parse(line));
const began = process.hrtime.bigint();
// Callbacks, not promises: those of some of its calls never end.
const ask = (name, ...given) => new Promise((resolve, reject) => {
  client[name](...given, (error, result) => (error ? reject(error) : resolve(result)));
});
let next = 0;
let read = 0;

async function work() {
  while (next < enrollments.length) {
    const ten = enrollments.slice(next, next += 10);
    const result = await ask('runBulkEnrollmentOperation', { mode: 'create', enrollments: ten });
    if (!result.isSuccessful) throw new Error(JSON.stringify(result.errors));
    for (const enrollment of ten) {
      await ask('getIndividualEnrollment', enrollment.registrationId);
      read += 1;
    }
  }
}

Promise.all([work(), work(), work(), work()]).then(() => {
  const { user, system } = process.cpuUsage();
  console.log(JSON.stringify({
    settled: read,
    wall_ms: Number((process.hrtime.bigint() - began) / 1000000n),
    cpu_ms: (user + system) / 1000,
    rss_kib: process.resourceUsage().maxRSS,
  }));
});
