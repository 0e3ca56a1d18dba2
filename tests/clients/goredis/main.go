// What go-redis offers its users, against both ports of a CacheCluster.
//
//	goredis FRONT_HOST:PORT CLUSTER_HOST:PORT      one JSON line for each check: {"check", "error"}; exit 1 if any failed
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

var names atomic.Int64

// fresh is the name of a key that nobody else has; keys that begin with it are in one slot.
func fresh() string {
	return fmt.Sprintf("goredis:{%d:%d}", os.Getpid(), names.Add(1))
}

func expect(what string, got, wanted any) error {
	if !reflect.DeepEqual(got, wanted) {
		return fmt.Errorf("%s: got %v, not %v", what, got, wanted)
	}
	return nil
}

type check struct {
	name string
	run  func(ctx context.Context, client redis.UniversalClient) error
}

var checks = []check{
	{"values of all types", values},
	{"a pipeline, in order", pipeline},
	{"an error in a pipeline concerns only its command", pipelineWithError},
	{"a transaction", transaction},
	{"an optimistic transaction that is repeated", optimistic},
	{"an optimistic transaction that loses", optimisticLost},
	{"a script, loaded when it is missing", script},
	{"waiting for an element", blocking},
	{"a stream with a consumer group", stream},
	{"publish and subscribe", publish},
	{"sharded publish and subscribe", publishSharded},
	{"every key found by scanning", scan},
	{"many goroutines on one pool", pool},
	{"a context that ends", timeout},
	{"what it asks on connecting", info},
}

func values(ctx context.Context, client redis.UniversalClient) error {
	key := fresh()
	if err := client.Set(ctx, key, []byte{0, 255, '\r', '\n'}, time.Minute).Err(); err != nil {
		return err
	}
	got, err := client.Get(ctx, key).Bytes()
	left := client.TTL(ctx, key).Val()
	none := client.Get(ctx, key+"none").Err()
	client.HSet(ctx, key+"h", map[string]any{"a": 1, "b": 2})
	client.ZAdd(ctx, key+"z", redis.Z{Score: 1.5, Member: "one"}, redis.Z{Score: 2, Member: "two"})
	return errors.Join(
		err,
		expect("value", got, []byte{0, 255, '\r', '\n'}),
		expect("time left", left > 50*time.Second, true),
		expect("nothing", none, redis.Nil),
		expect("hash", client.HGetAll(ctx, key+"h").Val(), map[string]string{"a": "1", "b": "2"}),
		expect("sorted set", client.ZRangeWithScores(ctx, key+"z", 0, -1).Val(),
			[]redis.Z{{Score: 1.5, Member: "one"}, {Score: 2, Member: "two"}}),
		expect("only once", client.SetNX(ctx, key, "again", 0).Val(), false),
	)
}

func pipeline(ctx context.Context, client redis.UniversalClient) error {
	keys := []string{fresh(), fresh(), fresh()}
	replies, err := client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for n := range 300 {
			pipe.RPush(ctx, keys[n%3], n)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for n, reply := range replies {
		if got := reply.(*redis.IntCmd).Val(); got != int64(n/3+1) {
			return fmt.Errorf("reply %d is %d", n, got)
		}
	}
	first, err := client.LRange(ctx, keys[1], 0, 2).Result()
	return errors.Join(err, expect("order", first, []string{"1", "4", "7"}))
}

func pipelineWithError(ctx context.Context, client redis.UniversalClient) error {
	key := fresh()
	replies, err := client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.Set(ctx, key, "text", 0)
		pipe.Incr(ctx, key)
		pipe.Get(ctx, key)
		return nil
	})
	return errors.Join(
		expect("an error", err != nil, true),
		expect("before it", replies[0].Err(), nil),
		expect("the error", redis.HasErrorPrefix(replies[1].Err(), "value is not an integer"), true),
		expect("behind it", replies[2].(*redis.StringCmd).Val(), "text"),
	)
}

func transaction(ctx context.Context, client redis.UniversalClient) error {
	key := fresh()
	var second *redis.IntCmd
	_, err := client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.Set(ctx, key, 1, 0)
		second = pipe.Incr(ctx, key)
		return nil
	})
	return errors.Join(err, expect("second", second.Val(), int64(2)))
}

func optimistic(ctx context.Context, client redis.UniversalClient) error {
	key := fresh()
	increment := func(tx *redis.Tx) error {
		value, err := tx.Get(ctx, key).Int()
		if err != nil && err != redis.Nil {
			return err
		}
		_, err = tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			pipe.Set(ctx, key, value+1, 0)
			return nil
		})
		return err
	}
	var all sync.WaitGroup
	failed := make(chan error, 8)
	for range 8 {
		all.Go(func() {
			for range 200 {
				err := client.Watch(ctx, increment, key)
				if err == nil {
					return
				}
				if err != redis.TxFailedErr {
					failed <- err
					return
				}
			}
			failed <- errors.New("lost 200 times")
		})
	}
	all.Wait()
	close(failed)
	value, err := client.Get(ctx, key).Int()
	return errors.Join(<-failed, err, expect("count", value, 8))
}

func optimisticLost(ctx context.Context, client redis.UniversalClient) error {
	key := fresh()
	err := client.Watch(ctx, func(tx *redis.Tx) error {
		if err := client.Set(ctx, key, "theirs", 0).Err(); err != nil {
			return err
		}
		_, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			pipe.Set(ctx, key, "mine", 0)
			return nil
		})
		return err
	}, key)
	return errors.Join(expect("lost", err, redis.TxFailedErr), expect("value", client.Get(ctx, key).Val(), "theirs"))
}

func script(ctx context.Context, client redis.UniversalClient) error {
	key := fresh()
	add := redis.NewScript(fmt.Sprintf("return redis.call('INCRBY', KEYS[1], ARGV[1]) -- %s", key))
	first, err := add.Run(ctx, client, []string{key}, 3).Int()
	second, again := add.EvalSha(ctx, client, []string{key}, 3).Int()
	return errors.Join(err, again, expect("first", first, 3), expect("second", second, 6))
}

func blocking(ctx context.Context, client redis.UniversalClient) error {
	key := fresh()
	popped := make(chan error, 1)
	go func() {
		got, err := client.BLPop(ctx, 5*time.Second, key).Result()
		popped <- errors.Join(err, expect("popped", got, []string{key, "first"}))
	}()
	pushed := client.RPush(ctx, key, "first").Err()
	none := client.BLPop(ctx, time.Second, key+"none").Err()
	return errors.Join(pushed, <-popped, expect("nothing", none, redis.Nil))
}

func stream(ctx context.Context, client redis.UniversalClient) error {
	key := fresh()
	if err := client.XGroupCreateMkStream(ctx, key, "group", "$").Err(); err != nil {
		return err
	}
	id := client.XAdd(ctx, &redis.XAddArgs{Stream: key, Values: map[string]any{"field": "value"}}).Val()
	read, err := client.XReadGroup(ctx, &redis.XReadGroupArgs{
		Group: "group", Consumer: "me", Streams: []string{key, ">"}, Count: 1, Block: 5 * time.Second,
	}).Result()
	if err != nil {
		return err
	}
	return errors.Join(
		expect("read", read[0].Messages[0].ID, id),
		expect("fields", read[0].Messages[0].Values, map[string]any{"field": "value"}),
		expect("acknowledged", client.XAck(ctx, key, "group", id).Val(), int64(1)),
	)
}

// heard are the payloads of the next messages.
func heard(ctx context.Context, subscription *redis.PubSub, count int) ([]string, error) {
	found := []string{}
	for len(found) < count {
		message, err := subscription.ReceiveMessage(ctx)
		if err != nil {
			return nil, err
		}
		found = append(found, message.Channel+" "+message.Pattern+" "+message.Payload)
	}
	slices.Sort(found)
	return found, nil
}

func publish(ctx context.Context, client redis.UniversalClient) error {
	channel := fresh()
	subscription := client.Subscribe(ctx, channel)
	defer subscription.Close()
	if _, err := subscription.Receive(ctx); err != nil {
		return err
	}
	if err := subscription.PSubscribe(ctx, channel+"x*"); err != nil {
		return err
	}
	if _, err := subscription.Receive(ctx); err != nil {
		return err
	}
	client.Publish(ctx, channel, "one")
	client.Publish(ctx, channel+"xy", "two")
	found, err := heard(ctx, subscription, 2)
	return errors.Join(err, expect("heard", found, []string{channel + "  one", channel + "xy " + channel + "x* two"}))
}

func publishSharded(ctx context.Context, client redis.UniversalClient) error {
	channel := fresh()
	subscription := client.SSubscribe(ctx, channel)
	defer subscription.Close()
	if _, err := subscription.Receive(ctx); err != nil {
		return err
	}
	client.SPublish(ctx, channel, "one")
	found, err := heard(ctx, subscription, 1)
	return errors.Join(err, expect("heard", found, []string{channel + "  one"}))
}

func scan(ctx context.Context, client redis.UniversalClient) error {
	prefix := fmt.Sprintf("goredis:scan:%d:%d:", os.Getpid(), names.Add(1))
	_, err := client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for n := range 300 {
			pipe.Set(ctx, fmt.Sprintf("%s%d", prefix, n), n, 0)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var lock sync.Mutex
	found := map[string]bool{}
	walk := func(ctx context.Context, node *redis.Client) error {
		keys := node.Scan(ctx, 0, prefix+"*", 50).Iterator()
		for keys.Next(ctx) {
			lock.Lock()
			found[keys.Val()] = true
			lock.Unlock()
		}
		return keys.Err()
	}
	switch it := client.(type) {
	case *redis.ClusterClient:
		err = it.ForEachMaster(ctx, walk)
	case *redis.Client:
		err = walk(ctx, it)
	}
	return errors.Join(err, expect("keys", len(found), 300))
}

func pool(ctx context.Context, client redis.UniversalClient) error {
	key := fresh()
	var all sync.WaitGroup
	failed := make(chan error, 50)
	for range 50 {
		all.Go(func() {
			for n := range 20 {
				own := fmt.Sprintf("%s%d", fresh(), n)
				if err := client.Set(ctx, own, own, time.Minute).Err(); err != nil {
					failed <- err
				}
				if err := expect("own value", client.Get(ctx, own).Val(), own); err != nil {
					failed <- err
				}
				if err := client.Incr(ctx, key).Err(); err != nil {
					failed <- err
				}
			}
		})
	}
	all.Wait()
	close(failed)
	return errors.Join(<-failed, expect("count", client.Get(ctx, key).Val(), "1000"))
}

func timeout(ctx context.Context, client redis.UniversalClient) error {
	key := fresh()
	soon, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	err := client.BLPop(soon, 10*time.Second, key).Err()
	client.RPush(ctx, key, "later")
	deadline := time.Now().Add(5 * time.Second)
	for client.Get(ctx, key+"x").Err() != redis.Nil && time.Now().Before(deadline) {
	}
	return errors.Join(expect("ended", err != nil, true), expect("usable", client.Ping(ctx).Err(), nil))
}

func info(ctx context.Context, client redis.UniversalClient) error {
	named, ok := client.(*redis.Client)
	if !ok {
		return client.Ping(ctx).Err()
	}
	options := *named.Options()
	options.ClientName = "suite"
	own := redis.NewClient(&options)
	defer own.Close()
	return errors.Join(expect("name", own.ClientGetName(ctx).Val(), "suite"), own.Info(ctx, "server").Err())
}

func main() {
	front, cluster := os.Args[1], os.Args[2]
	failures := 0
	for _, protocol := range []int{2, 3} {
		clients := map[string]redis.UniversalClient{
			"plain":   redis.NewClient(&redis.Options{Addr: front, Protocol: protocol}),
			"cluster": redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{cluster}, Protocol: protocol}),
		}
		for kind, client := range clients {
			for _, check := range checks {
				ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
				line := map[string]any{"check": fmt.Sprintf("%s RESP%d: %s", kind, protocol, check.name), "error": nil}
				if err := check.run(ctx, client); err != nil {
					line["error"] = err.Error()
					failures++
				}
				cancel()
				text, _ := json.Marshal(line)
				fmt.Println(string(text))
			}
			client.Close()
		}
	}
	if failures > 0 {
		os.Exit(1)
	}
}
