// What Node's own HTTP client sees of a router, and what a raw one does: node clients.js HOST PORT. Exits 0 if all is as
// it should be. The router takes heads of 12 KiB and gives heads and bodies a second; the program takes bodies of 1 MiB.
'use strict';

const assert = require('node:assert/strict');
const http = require('node:http');
const net = require('node:net');

const [host, port] = [process.argv[2], Number(process.argv[3])];
const agent = new http.Agent({ keepAlive: true });
const MIB = 1024 * 1024;

// Sends a request; `send` writes its body, or waits with it. Answers with what came.
function ask(options, send = (request) => request.end()) {
  return new Promise((resolve, reject) => {
    const request = http.request({ host, port, agent, ...options, path: `/express${options.path ?? '/'}` });
    const came = { continued: false };
    request.on('continue', () => (came.continued = true));
    request.on('response', (response) => {
      let body = '';
      response.on('data', (data) => (body += data));
      response.on('end', () => resolve({ ...came, status: response.statusCode, headers: response.headers, body }));
      response.on('error', reject);
    });
    request.on('error', (error) => (came.status ? undefined : reject(error)));
    send(request);
  });
}

// Writes bytes as they are; answers with all that comes until the connection's end.
function raw(bytes, { end = false, also = () => {} } = {}) {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ host, port, allowHalfOpen: true });
    let all = '';
    socket.on('data', (data) => (all += data));
    socket.on('end', () => resolve(all) ?? socket.destroy());
    socket.on('error', reject);
    socket.write(bytes);
    if (end) socket.end();
    also(socket);
  });
}

const order = (headers) => ({ method: 'POST', path: '/orders', headers });
const whenTold = (body) => (request) => {
  request.flushHeaders();
  request.on('continue', () => request.end(body));
};

const cases = {
  async 'a body is sent when the client was told to'() {
    for (const size of [1, 65536, 65537, MIB]) {
      const headers = { Expect: '100-continue', 'Content-Length': size };
      const came = await ask(order(headers), whenTold('x'.repeat(size)));
      assert.deepEqual([came.status, came.continued, JSON.parse(came.body).bytes], [200, true, size]);
    }
  },
  async 'a chunked body is sent when the client was told to'() {
    const came = await ask(order({ Expect: '100-continue', 'Transfer-Encoding': 'chunked' }), whenTold('chunks'));
    assert.deepEqual([came.status, came.continued, JSON.parse(came.body).bytes], [200, true, 6]);
  },
  async 'a client that expects and does not wait is served'() {
    for (const size of [5, 200_000]) {
      const came = await ask(order({ Expect: '100-continue', 'Content-Length': size }), (request) => request.end('y'.repeat(size)));
      assert.deepEqual([came.status, JSON.parse(came.body).bytes], [200, size]);
    }
  },
  async 'a body too large is refused before it is sent'() {
    const came = await ask(order({ Expect: '100-continue', 'Content-Length': MIB + 1 }), (request) => request.flushHeaders());
    assert.deepEqual([came.status, came.continued, came.headers.connection], [413, false, 'close']);
    assert.equal(JSON.parse(came.body).code, 'body_too_large');
  },
  async 'an expectation that nobody knows is 417'() {
    const came = await ask(order({ Expect: 'the-unexpected', 'Content-Length': 1 }), (request) => request.flushHeaders());
    assert.equal(came.status, 417);
  },
  async 'what has no program is answered and not waited for'() {
    const options = { ...order({ Expect: '100-continue', 'Content-Length': 10 }), path: '/../nowhere' };
    const came = await ask(options, (request) => request.flushHeaders());
    assert.deepEqual([came.status, came.continued], [404, false]);
  },
  async 'bodies at the limit pass and those over it are 413, also while they come'() {
    assert.equal((await ask(order({ 'Content-Length': MIB }), (request) => request.end('z'.repeat(MIB)))).status, 200);
    for (const headers of [{ 'Content-Length': 2 * MIB }, { 'Transfer-Encoding': 'chunked' }]) {
      const came = await ask(order(headers), (request) => request.end('z'.repeat(2 * MIB)));
      assert.deepEqual([came.status, JSON.parse(came.body).code], [413, 'body_too_large']);
    }
  },
  async 'heads at the limit pass and those over it are 431'() {
    const head = (length) => {
      const start = `GET /express/ HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\nX-Fill: `;
      return `${start}${'f'.repeat(length - start.length - 4)}\r\n\r\n`;
    };
    assert.match(await raw(head(12288)), /^HTTP\/1.1 200 /);
    assert.match(await raw(head(12289)), /^HTTP\/1.1 431 .*"code":"head_too_large"/s);
    const came = await ask({ headers: { Cookie: 'c'.repeat(13_000) } });
    assert.deepEqual([came.status, came.headers.connection], [431, 'close']);
  },
  async 'a target over the limit is 414'() {
    const came = await ask({ path: `/${'t'.repeat(8193)}` });
    assert.equal(came.status, 414);
  },
  async 'a slow head is 408'() {
    const all = await raw(`GET /express/ HTTP/1.1\r\nHost: ${host}\r\n`, { also: drip('X-Slow: 1\r\n') });
    assert.match(all, /^HTTP\/1.1 408 .*connection: close.*"code":"head_too_slow"/is);
  },
  async 'a body that stops is 408, kept or passed on'() {
    for (const size of [1000, 500_000]) {
      const came = await ask(order({ 'Content-Length': size }), (request) => request.write('half'));
      assert.deepEqual([came.status, JSON.parse(came.body).code], [408, 'body_too_slow']);
    }
  },
  async 'requests sent ahead are answered in order, with slow ones and errors between'() {
    const kinds = ['GET /express/', 'GET /express/slow?ms=150', 'GET /nowhere', 'GET /express/nowhere', 'POST /express/orders'];
    let ahead = '';
    for (let number = 0; number < 40; number += 1) {
      const kind = kinds[number % kinds.length];
      const body = kind.startsWith('POST') ? `order ${number}` : '';
      const length = body ? `Content-Length: ${body.length}\r\n` : '';
      ahead += `${kind} HTTP/1.1\r\nHost: a\r\nX-Traffic-Id: ${number}\r\n${length}\r\n${body}`;
    }
    const all = await raw(`${ahead}GET /express/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /late HTTP/1.1\r\n\r\n`);
    const statuses = [...all.matchAll(/HTTP\/1.1 (\d+)/g)].map((found) => Number(found[1]));
    const due = Array.from({ length: 40 }, (_, number) => [200, 200, 404, 404, 200][number % 5]);
    assert.deepEqual(statuses, [...due, 200]);
    const ids = [...all.matchAll(/X-Traffic-Id: (\d+)/gi)].map((found) => Number(found[1]));
    assert.deepEqual(ids, Array.from({ length: 40 }, (_, number) => number).filter((number) => number % 5 !== 2));
  },
  async 'what follows a malformed request is not answered'() {
    const get = 'GET /express/ HTTP/1.1\r\nHost: a\r\n\r\n';
    const all = await raw(`${get}GET /express/ HTTP/1.1\r\nHost : a\r\n\r\n${get}`);
    const statuses = [...all.matchAll(/HTTP\/1.1 (\d+)/g)].map((found) => found[1]);
    assert.deepEqual(statuses, ['200', '400']);
  },
  async 'a client that ends its side gets the answer that it waits for'() {
    const get = `GET /express/slow?ms=300 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`;
    assert.match(await raw(get, { end: true }), /^HTTP\/1.1 200 .*"waited_ms":300/s);
    const post = `POST /express/orders HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n${'e'.repeat(100_000)}`;
    assert.match(await raw(post, { end: true }), /^HTTP\/1.1 200 .*"bytes":100000/s);
  },
};

// A few bytes now and then, until the other side has enough.
function drip(bytes) {
  return (socket) => {
    const timer = setInterval(() => socket.write(bytes), 200);
    socket.on('end', () => clearInterval(timer));
    socket.on('close', () => clearInterval(timer));
  };
}

async function main() {
  let wrong = 0;
  const all = Object.entries(cases).map(async ([name, holds]) => {
    try {
      await Promise.race([
        holds(),
        new Promise((_, reject) => setTimeout(() => reject(new Error('nothing came within 20 s')), 20_000).unref()),
      ]);
    } catch (error) {
      wrong += 1;
      console.error(`NOT SO: ${name}: ${error.stack}`);
    }
  });
  await Promise.all(all);
  process.exit(wrong === 0 ? 0 : 1);
}

main();
