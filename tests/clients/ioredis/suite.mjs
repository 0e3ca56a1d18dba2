// What ioredis offers its users, against both ports of a CacheCluster.
//
//   node suite.mjs FRONT_HOST:PORT CLUSTER_HOST:PORT [WAYS]
//
// One JSON line for each check: {"check", "error"}; exit 1 if any failed. WAYS: only the ways that begin so, as "plain".
import assert from "node:assert/strict";
import { once } from "node:events";
import { Cluster, Redis } from "ioredis";

const [front, cluster] = process.argv.slice(2, 4).map((address) => {
  const [host, port] = address.split(":");
  return { host, port: Number(port) };
});
const ways = {
  "plain RESP2": (options) => new Redis({ ...front, protocol: 2, ...options }),
  "plain RESP3": (options) => new Redis({ ...front, protocol: 3, ...options }),
  "cluster RESP2": (options) => new Cluster([cluster], { ...options, redisOptions: { protocol: 2 } }),
  "cluster RESP3": (options) => new Cluster([cluster], { ...options, redisOptions: { protocol: 3 } }),
};
const failures = [];
let names = 0;

function fresh() {
  names += 1;
  return `ioredis:{${process.pid}:${names}}`;
}

const checks = {
  async "values of all types"(client) {
    const key = fresh();
    await client.set(key, Buffer.from([0, 255, 13, 10]));
    assert.deepEqual(await client.getBuffer(key), Buffer.from([0, 255, 13, 10]));
    await client.hset(`${key}h`, { a: "1", b: "2" });
    assert.deepEqual(await client.hgetall(`${key}h`), { a: "1", b: "2" });
    await client.zadd(`${key}z`, 1.5, "one", 2, "two");
    assert.deepEqual(await client.zrange(`${key}z`, 0, -1, "WITHSCORES"), ["one", "1.5", "two", "2"]);
    await client.sadd(`${key}s`, "x", "y");
    assert.equal(await client.scard(`${key}s`), 2);
    assert.equal(await client.incrbyfloat(`${key}f`, 0.5), "0.5");
  },

  async "expiry and options"(client) {
    const key = fresh();
    assert.equal(await client.set(key, "1", "EX", 100, "NX"), "OK");
    assert.equal(await client.set(key, "2", "NX"), null);
    assert.ok((await client.ttl(key)) > 90);
    assert.equal(await client.getdel(key), "1");
  },

  async "a pipeline, in order"(client) {
    const key = fresh();
    const pipeline = client.pipeline();
    for (let n = 0; n < 500; n += 1) pipeline.rpush(key, n);
    pipeline.lrange(key, 0, -1);
    const replies = await pipeline.exec();
    assert.deepEqual(replies.slice(0, 500).map(([error, length]) => error ?? length), [...Array(500).keys()].map((n) => n + 1));
    assert.deepEqual(replies[500][1], [...Array(500).keys()].map(String));
  },

  async "an error in a pipeline concerns only its command"(client) {
    const key = fresh();
    const [[first], [second, value]] = await client.pipeline().set(key, "text").incr(key).exec();
    assert.equal(first, null);
    assert.match(second.message, /not an integer/);
    assert.equal(value, undefined);
  },

  async "commands sent in the same tick, pipelined by the client"(client, way) {
    const automatic = way({ enableAutoPipelining: true });
    try {
      const keys = Array.from({ length: 200 }, fresh);
      await Promise.all(keys.map((key, n) => automatic.set(key, n)));
      assert.deepEqual(await Promise.all(keys.map((key) => automatic.get(key))), keys.map((_, n) => String(n)));
    } finally {
      automatic.disconnect();
    }
  },

  async "a transaction"(client) {
    const key = fresh();
    const replies = await client.multi().set(key, "1").incr(key).get(key).exec();
    assert.deepEqual(replies, [[null, "OK"], [null, 2], [null, "2"]]);
  },

  async "keys in several slots"(client) {
    const [one, two] = [fresh(), fresh()];
    if (client.isCluster) {
      await assert.rejects(client.mget(one, two), /CROSSSLOT|MOVED/);
      return;
    }
    await client.mset(one, "1", two, "2");
    assert.deepEqual(await client.mget(one, two, fresh()), ["1", "2", null]);
    assert.equal(await client.del(one, two), 2);
  },

  async "a script, loaded when it is missing"(client) {
    const key = fresh();
    await client.script("FLUSH");
    client.defineCommand("addTwice", { numberOfKeys: 1, lua: "redis.call('INCRBY', KEYS[1], ARGV[1]) return redis.call('INCRBY', KEYS[1], ARGV[1])" });
    assert.equal(await client.addTwice(key, 3), 6);
    assert.equal(await client.addTwice(key, 3), 12);
    assert.deepEqual(await client.pipeline().addTwice(key, 1).exec(), [[null, 14]]);
  },

  async "waiting for an element"(client, way) {
    const [key, waiting] = [fresh(), way({})];
    try {
      const popped = waiting.blpop(key, 5);
      const moved = way({});
      await client.rpush(key, "first");
      assert.deepEqual(await popped, [key, "first"]);
      assert.equal(await moved.blpop(`${key}none`, 0.05), null);
      moved.disconnect();
    } finally {
      waiting.disconnect();
    }
  },

  async "a stream with a consumer group"(client, way) {
    const key = fresh();
    await client.xgroup("CREATE", key, "group", "$", "MKSTREAM");
    const reader = way({});
    try {
      const read = reader.xreadgroup("GROUP", "group", "me", "COUNT", 1, "BLOCK", 5000, "STREAMS", key, ">");
      const id = await client.xadd(key, "*", "field", "value");
      const streams = await read;
      const [[name, [[told, fields]]]] = Array.isArray(streams) ? streams : Object.entries(streams);
      assert.deepEqual([name, told, fields], [key, id, ["field", "value"]]);
      assert.equal(await client.xack(key, "group", id), 1);
    } finally {
      reader.disconnect();
    }
  },

  async "publish and subscribe"(client, way) {
    const [channel, subscriber] = [fresh(), way({})];
    try {
      const heard = [];
      subscriber.on("message", (where, what) => heard.push(["channel", where, what]));
      subscriber.on("pmessage", (pattern, where, what) => heard.push(["pattern", where, what]));
      await subscriber.subscribe(channel);
      await subscriber.psubscribe(`${channel}*`);
      await client.publish(channel, "one");
      await client.publish(`${channel}x`, "two");
      while (heard.length < 3) await once(subscriber, "pmessage");
      assert.deepEqual(heard.sort(), [["channel", channel, "one"], ["pattern", channel, "one"], ["pattern", `${channel}x`, "two"]]);
      await subscriber.unsubscribe(channel);
    } finally {
      subscriber.disconnect();
    }
  },

  async "sharded publish and subscribe"(client, way) {
    const channel = fresh();
    const subscriber = way({ shardedSubscribers: true });
    try {
      const message = once(subscriber, "smessage");
      await subscriber.ssubscribe(channel);
      await client.spublish(channel, "sharded");
      assert.deepEqual((await message).slice(0, 2).map(String), [channel, "sharded"]);
    } finally {
      subscriber.disconnect();
    }
  },

  async "every key found by scanning"(client) {
    const key = fresh();
    const keys = Array.from({ length: 300 }, (_, n) => `${key}:${n}:{${n}}`);
    await Promise.all(keys.map((name) => client.set(name, "1")));
    const found = new Set();
    for (const node of client.isCluster ? client.nodes("master") : [client]) {
      for await (const some of node.scanStream({ match: `${key.replace(/[{}]/g, "?")}:*`, count: 50 })) {
        some.forEach((name) => found.add(name));
      }
    }
    assert.equal(found.size, 300);
    const members = new Set();
    await client.sadd(`${key}set`, ...keys);
    for await (const some of client.sscanStream(`${key}set`)) some.forEach((name) => members.add(name));
    assert.equal(members.size, 300);
  },

  async "a connection that is lost comes back"(client, way) {
    const [key, broken] = [fresh(), way({})];
    try {
      await broken.set(key, "before");
      for (const node of broken.isCluster ? broken.nodes() : [broken]) node.stream?.destroy();
      assert.equal(await broken.get(key), "before");
    } finally {
      broken.disconnect();
    }
  },

  async "what it asks on connecting, and at the end"(client, way) {
    const named = way({ connectionName: "suite" });
    const node = named.isCluster ? null : named;
    assert.equal(await named.ping(), "PONG");
    if (node !== null) assert.equal(await node.client("GETNAME"), "suite");
    assert.match(await named.info("server"), /redis_version:/);
    assert.equal(await named.quit(), "OK");
  },
};

for (const [name, way] of Object.entries(ways)) {
  if (!name.startsWith(process.argv[4] ?? "")) continue;
  const client = way({});
  for (const [what, check] of Object.entries(checks)) {
    const deadline = new Promise((_, reject) => setTimeout(reject, 15000, new Error("no end after 15 s")).unref());
    let error = null;
    try {
      await Promise.race([check(client, way), deadline]);
    } catch (raised) {
      error = raised.stack;
      failures.push(what);
    }
    console.log(JSON.stringify({ check: `${name}: ${what}`, error }));
  }
  client.disconnect();
}
process.exit(failures.length ? 1 : 0);
