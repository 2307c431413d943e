// An Express application, as others write them: nothing in it knows of neap.
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const { Readable } = require('node:stream');
const express = require('express');
const { WebSocketServer } = require('ws');
const carts = require('./carts.js');

const version = process.env.NEAP_VERSION ?? '0';
const [port, logFile] = [process.argv[2] ?? process.env.PORT, process.argv[3] ?? '/dev/stdout'];
const log = fs.openSync(logFile, 'a');
// What /counts tells: bytes made by /download, requests whose client left before their answer's end, connections.
const counts = { made: 0, left: 0, connections: 0, sockets: 0, closed: [] };
const app = express();
app.disable('x-powered-by');

app.use((request, response, next) => {
  response.set('X-Version', version);
  response.set('X-Server', process.env.NEAP_NODE ?? '');
  if (request.get('X-Traffic-Id')) response.set('X-Traffic-Id', request.get('X-Traffic-Id'));
  response.on('close', () => {
    if (!response.writableFinished) counts.left += 1;
  });
  next();
});

app.get('/', (_, response) => response.json({ program: 'express', version }));
app.get('/healthz', (_, response) => response.json({ ok: true }));
app.get('/counts', (_, response) => response.json(counts));

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

app.use('/cart', carts);

// Whoever waits is told by POST /tick: events as they come, polls by their answer.
const waiting = new Set();
let tick = 0;

app.post('/tick', (_, response) => {
  tick += 1;
  for (const tell of waiting) tell(tick);
  response.json({ tick, told: waiting.size });
});

app.get('/events', (_, response) => {
  response.set('Content-Type', 'text/event-stream');
  response.flushHeaders();
  const tell = (number) => response.write(`data: ${number}\n\n`);
  waiting.add(tell);
  response.on('close', () => waiting.delete(tell));
});

app.get('/poll', (_, response) => {
  const tell = (number) => {
    waiting.delete(tell);
    response.json({ tick: number });
  };
  waiting.add(tell);
  response.on('close', () => waiting.delete(tell));
});

// Made as fast as it is taken, so that nothing of it is anywhere but on its way.
app.get('/download', (request, response) => {
  let left = Number(request.query.bytes ?? 0);
  const piece = Buffer.alloc(64 * 1024, 'd');
  response.set('Content-Length', String(left));
  const read = function () {
    const size = Math.min(left, piece.length);
    left -= size;
    counts.made += size;
    this.push(size > 0 ? piece.subarray(0, size) : null);
  };
  new Readable({ read, highWaterMark: piece.length }).on('error', () => {}).pipe(response);
});

// Takes nothing until the next tick, and then all of it.
app.post('/upload', (request, response) => {
  let taken = 0;
  const take = () => {
    waiting.delete(take);
    request.on('data', (data) => (taken += data.length));
    request.on('end', () => response.json({ taken }));
    request.resume();
  };
  request.pause();
  waiting.add(take);
  response.on('close', () => waiting.delete(take));
});

const server = app.listen(Number(port), '127.0.0.1', (error) => {
  if (error) throw error;
  console.log(`express ${version} listens on 127.0.0.1:${server.address().port}`);
});
server.on('connection', () => (counts.connections += 1));
// Longer than any router keeps an idle connection, so that it is the router that closes; KEEP_ALIVE_MS says another
// time, or "default".
if (process.env.KEEP_ALIVE_MS !== 'default') {
  server.keepAliveTimeout = Number(process.env.KEEP_ALIVE_MS ?? 120_000);
  server.headersTimeout = server.keepAliveTimeout + 5_000;
}

// Echoes; closes with the code that it is asked for by "close CODE REASON".
const sockets = new WebSocketServer({ server, path: '/ws', maxPayload: 16 * 1024 * 1024 });
sockets.on('connection', (socket) => {
  counts.sockets += 1;
  socket.on('message', (data, binary) => {
    const [word, code, reason] = binary ? [] : data.toString().split(' ');
    if (word === 'close') socket.close(Number(code), reason);
    else socket.send(data, { binary });
  });
  socket.on('error', () => {});
  socket.on('close', (code, reason) => {
    counts.sockets -= 1;
    counts.closed.push(`${code} ${reason}`);
  });
});

process.on('SIGTERM', () => {
  // Takes no new connections and closes idle ones; what is under way ends first.
  server.close(() => process.exit(0));
  setInterval(() => server.closeIdleConnections(), 50);
});
