// An Express application, as others write them: nothing in it knows of neap.
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const express = require('express');

const version = process.env.NEAP_VERSION ?? '0';
const [port, logFile] = [process.argv[2] ?? process.env.PORT, process.argv[3] ?? '/dev/stdout'];
const log = fs.openSync(logFile, 'a');
const app = express();
app.disable('x-powered-by');

app.use((request, response, next) => {
  response.set('X-Version', version);
  if (request.get('X-Traffic-Id')) response.set('X-Traffic-Id', request.get('X-Traffic-Id'));
  next();
});

app.get('/', (_, response) => response.json({ program: 'express', version }));
app.get('/healthz', (_, response) => response.json({ ok: true }));

app.get('/slow', (request, response) => {
  const wait = Math.min(Number.parseInt(request.query.ms ?? '1000', 10) || 0, 120_000);
  setTimeout(() => response.json({ waited_ms: wait }), wait);
});

app.post('/orders', express.raw({ type: () => true, limit: '64mb' }), (request, response) => {
  const body = Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
  const name = request.get('X-Post-Id') ?? '-';
  fs.writeSync(log, `${name} ${body.length}\n`);
  response.set('X-Post-Id', name);
  response.set('X-Body-Sha256', crypto.createHash('sha256').update(body).digest('hex'));
  response.json({ order: name, bytes: body.length });
});

const server = app.listen(Number(port), '127.0.0.1', (error) => {
  if (error) throw error;
  console.log(`express ${version} listens on 127.0.0.1:${server.address().port}`);
});
// Longer than any router keeps an idle connection: it is the router that closes, never the program.
server.keepAliveTimeout = 120_000;
server.headersTimeout = 125_000;

process.on('SIGTERM', () => {
  // Takes no new connections and closes idle ones; what is under way ends first.
  server.close(() => process.exit(0));
  setInterval(() => server.closeIdleConnections(), 50);
});
