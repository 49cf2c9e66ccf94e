// Sends what stands on stdin with @parse/node-apn, and prints what it made of the answers. NODE_PATH leads to the package.
const apn = require("@parse/node-apn");

let text = "";
process.stdin.on("data", (piece) => (text += piece));
process.stdin.on("end", async () => {
  const { options, topic, notes } = JSON.parse(text);
  const provider = new apn.Provider(options);
  const results = [];
  for (const { token, ...fields } of notes) {
    const note = new apn.Notification();
    Object.assign(note, { topic, ...fields });
    const { sent, failed } = await provider.send(note, token);
    const lost = failed.map((one) => ({ status: one.status, reason: one.response && one.response.reason }));
    results.push({ sent: sent.length, failed: lost });
  }
  console.log(JSON.stringify(results));
  provider.shutdown();
});
