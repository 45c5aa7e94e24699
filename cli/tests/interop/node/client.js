// The client of the interop suite in Node: @grpc/grpc-js, as an application would use it.
//
//     client.js --target 127.0.0.1:15001 --authority payments.shop --checks all
//
// Runs the checks one after the other, prints a line of JSON for each, and exits with 1 if one failed.
// `--authority` is what calls are addressed to where that is not the target.
'use strict';

const assert = require('node:assert/strict');
const { randomUUID } = require('node:crypto');
const { once } = require('node:events');
const { parseArgs } = require('node:util');
const grpc = require('@grpc/grpc-js');

const MIB = 1 << 20;
// A call that takes longer hangs.
const CALL_MS = 20_000;
// The first will do, but on a machine so slow that the server does not even see the call in that time.
const DEADLINES_MS = [400, 3_000, 15_000];
// A deadline that is honoured is not missed by this much.
const LATE_MS = 4_000;
// Libraries round a timeout up when they write it, by a millisecond or so.
const ROUNDING_MS = 5;

// It must be quoted on the wire: unicode, percent signs, a newline.
const MESSAGE = 'Zahlung abgelehnt: 100 % – nicht gedeckt\n„später“ %41 \u{1F4A9}';

const ALL_BYTES = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));

// Messages are bytes, so there is nothing to serialize.
const same = (bytes) => bytes;
const method = (name, requestStream, responseStream) => ({
  path: `/interop.Echo/${name}`,
  requestStream,
  responseStream,
  requestSerialize: same,
  requestDeserialize: same,
  responseSerialize: same,
  responseDeserialize: same,
});
const Echo = grpc.makeGenericClientConstructor(
  {
    unary: method('Unary', false, false),
    zip: method('Zip', false, false),
    collect: method('Collect', true, false),
    expand: method('Expand', false, true),
    chat: method('Chat', true, true),
    fail: method('Fail', false, false),
    hang: method('Hang', false, false),
    hangStream: method('HangStream', true, true),
    seen: method('Seen', false, false),
  },
  'interop.Echo',
);

const soon = () => ({ deadline: Date.now() + CALL_MS });

// A call with one answer: the answer and both kinds of metadata, or the error.
function call(echo, name, request, { sent = new grpc.Metadata(), options = soon() } = {}) {
  return new Promise((resolve, reject) => {
    let headers, answer;
    const begun = echo[name](request, sent, options, (fault, response) => {
      if (fault) reject(fault);
      answer = response;
    });
    begun.on('metadata', (metadata) => (headers = metadata));
    begun.on('status', ({ metadata }) => resolve({ answer, headers, trailers: metadata }));
  });
}

async function failure(promise) {
  const answer = await promise.then(
    (value) => ({ value }),
    (fault) => ({ fault }),
  );
  assert.ok(answer.fault, 'an answer where an error was due');
  return answer.fault;
}

async function seen(echo, name) {
  const { answer } = await call(echo, 'seen', name);
  return JSON.parse(answer);
}

const CHECKS = {
  async unary(echo) {
    for (const payload of [Buffer.alloc(0), Buffer.from('x'), ALL_BYTES]) {
      const { answer } = await call(echo, 'unary', payload);
      assert.deepEqual(answer, payload);
    }
  },

  async client_stream(echo) {
    const messages = Array.from({ length: 100 }, (_, number) => Buffer.alloc(number, number));
    const answer = await new Promise((resolve, reject) => {
      const stream = echo.collect(soon(), (fault, response) => (fault ? reject(fault) : resolve(response)));
      messages.forEach((message) => stream.write(message));
      stream.end();
    });
    assert.deepEqual(answer, Buffer.concat(messages));
  },

  async server_stream(echo) {
    const messages = [];
    for await (const message of echo.expand(Buffer.from('{"count": 100, "bytes": 1000}'), soon())) {
      messages.push(message);
    }
    assert.deepEqual(messages, Array.from({ length: 100 }, (_, number) => Buffer.alloc(1000, number)));
  },

  // Each message is sent only when the answer to the one before is here.
  async bidi_stream(echo) {
    const stream = echo.chat(soon());
    const answers = [];
    stream.write(Buffer.from('0'));
    for await (const answer of stream) {
      answers.push(answer.toString());
      if (answers.length < 50) stream.write(Buffer.from(String(answers.length)));
      else stream.end();
    }
    assert.deepEqual(answers, Array.from({ length: 50 }, (_, number) => String(number)));
  },

  async deadline(echo) {
    let given, what;
    for (given of DEADLINES_MS) {
      const name = Buffer.from(randomUUID());
      const began = Date.now();
      const fault = await failure(call(echo, 'hang', name, { options: { deadline: began + given } }));
      const took = Date.now() - began;
      assert.equal(fault.code, grpc.status.DEADLINE_EXCEEDED);
      assert.ok(took < given + LATE_MS, `${took} ms of ${given} ms`);
      what = await seen(echo, name);
      if (what.began) break;
    }
    assert.ok(what.began && what.ended, `what the server saw: ${JSON.stringify(what)}`);
    // A relay may not give the server longer than the client gives it.
    const { remaining_ms: remaining } = what;
    assert.ok(remaining !== null && remaining <= given + ROUNDING_MS, `${remaining} ms of ${given} ms`);
  },

  async cancel(echo) {
    const name = Buffer.from(randomUUID());
    const stream = echo.hangStream(soon());
    stream.write(name);
    const [answer] = await once(stream, 'data');
    assert.deepEqual(answer, name);
    const [fault] = await Promise.all([once(stream, 'error').then(([fault]) => fault), stream.cancel()]);
    assert.equal(fault.code, grpc.status.CANCELLED);
    const what = await seen(echo, name);
    assert.ok(what.began && what.ended, `what the server saw: ${JSON.stringify(what)}`);
  },

  async metadata(echo) {
    const wanted = {
      'echo-ascii': ['visible ASCII, with commas; ~!@#$%^&*()'],
      'echo-many': ['first', 'second'],
      'echo-all-bin': [ALL_BYTES],
      'echo-many-bin': [Buffer.from([0, 255]), Buffer.from('a,b')],
      'echo-long': ['x'.repeat(4000)],
    };
    const sent = new grpc.Metadata();
    for (const [key, values] of Object.entries(wanted)) values.forEach((value) => sent.add(key, value));
    const { headers, trailers } = await call(echo, 'unary', Buffer.alloc(0), { sent });
    for (const [what, received] of Object.entries({ headers, trailers })) {
      for (const [key, values] of Object.entries(wanted)) {
        // grpc-js gives ASCII values of one key as one text, as Node's HTTP/2 does.
        const found = key.endsWith('-bin') ? received.get(key) : [received.get(key).join(', ')];
        const due = key.endsWith('-bin') ? values : [values.join(', ')];
        assert.deepEqual(found, due, `${key} in ${what}`);
      }
    }
  },

  // Far fewer bytes than these go over the wire: the suite counts them.
  async gzip(_, open) {
    const echo = open({ 'grpc.default_compression_algorithm': grpc.compressionAlgorithms.gzip });
    const payload = Buffer.from('compressible '.repeat(40_000));
    const { answer } = await call(echo, 'zip', payload);
    assert.ok(answer.equals(payload), 'it came back');
    echo.close();
  },

  async statuses(echo) {
    for (let code = 0; code <= 16; code += 1) {
      const request = Buffer.from(JSON.stringify({ code, message: MESSAGE }));
      if (code === 0) {
        const { answer } = await call(echo, 'fail', request);
        assert.equal(answer.length, 0);
        continue;
      }
      const fault = await failure(call(echo, 'fail', request));
      assert.deepEqual([fault.code, fault.details], [code, MESSAGE]);
    }
  },

  // A google.rpc.Status with a detail of 256 different bytes comes as it was sent.
  async details(echo) {
    const detail = [field(1, Buffer.from('type.example.com/interop.Bytes')), field(2, ALL_BYTES)];
    const status = [Buffer.from([8, 9]), field(2, Buffer.from(MESSAGE)), field(3, Buffer.concat(detail))];
    const bytes = Buffer.concat(status);
    const request = { code: 9, message: MESSAGE, details: bytes.toString('base64') };
    const fault = await failure(call(echo, 'fail', Buffer.from(JSON.stringify(request))));
    assert.deepEqual([fault.code, fault.details], [grpc.status.FAILED_PRECONDITION, MESSAGE]);
    assert.deepEqual(fault.metadata.get('grpc-status-details-bin'), [bytes]);
  },

  // As much as grpc-js receives by default.
  async large(echo) {
    const payload = Buffer.concat(Array(4 * MIB / 256).fill(ALL_BYTES));
    const { answer } = await call(echo, 'unary', payload);
    assert.ok(answer.equals(payload), '4 MiB came back');
  },
};

// A length-delimited field of a protobuf message.
function field(number, data) {
  const size = [];
  let length = data.length;
  for (; length > 127; length >>= 7) size.push((length & 127) | 128);
  return Buffer.concat([Buffer.from([(number << 3) | 2, ...size, length]), data]);
}

async function main() {
  const { values } = parseArgs({
    options: {
      target: { type: 'string' },
      authority: { type: 'string' },
      checks: { type: 'string', default: 'all' },
    },
  });
  const names = values.checks === 'all' ? Object.keys(CHECKS) : values.checks.split(',');
  const authority = values.authority ? { 'grpc.default_authority': values.authority } : {};
  const open = (options) =>
    new Echo(values.target, grpc.credentials.createInsecure(), { ...authority, ...options });
  const echo = open({});
  for (const name of names) {
    const began = Date.now();
    const line = { check: name, ok: true };
    try {
      await CHECKS[name](echo, open);
    } catch (fault) {
      console.error(fault);
      Object.assign(line, { ok: false, why: String(fault.message).slice(0, 1200) });
      process.exitCode = 1;
    }
    console.log(JSON.stringify({ ...line, ms: Date.now() - began }));
  }
  echo.close();
}

main();
