// Make the calls of stdin with github.com/segmentio/analytics-go, unmodified. See tests/clients/drive.py.
package main

import (
	"encoding/json"
	"os"
	"sync"
	"time"

	"github.com/segmentio/analytics-go/v3"
)

type call struct {
	N          int                    `json:"n"`
	Type       string                 `json:"type"`
	UserId     string                 `json:"userId"`
	GroupId    string                 `json:"groupId"`
	PreviousId string                 `json:"previousId"`
	Event      string                 `json:"event"`
	Name       string                 `json:"name"`
	Properties map[string]interface{} `json:"properties"`
	Traits     map[string]interface{} `json:"traits"`
}

// outcome counts what became of the calls: analytics.Callback.
type outcome struct {
	sync.WaitGroup
	sync.Mutex
	Refused []int    `json:"refused"`
	Errors  []string `json:"errors"`
}

func (o *outcome) Success(analytics.Message) { o.Done() }

func (o *outcome) Failure(message analytics.Message, err error) {
	o.Lock()
	defer o.Unlock()
	defer o.Done()
	if track, ok := message.(analytics.Track); ok && err == analytics.ErrMessageTooBig {
		o.Refused = append(o.Refused, int(track.Properties["n"].(float64)))
	} else {
		o.Errors = append(o.Errors, err.Error())
	}
}

type silent struct{}

func (silent) Logf(string, ...interface{})   {}
func (silent) Errorf(string, ...interface{}) {}

func main() {
	var task struct {
		Host  string `json:"host"`
		Key   string `json:"key"`
		Batch int    `json:"batch"`
		Calls []call `json:"calls"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&task); err != nil {
		panic(err)
	}
	out := &outcome{Refused: []int{}, Errors: []string{}}
	client, err := analytics.NewWithConfig(task.Key, analytics.Config{
		Endpoint: task.Host, BatchSize: task.Batch, Interval: 200 * time.Millisecond, Callback: out, Logger: silent{},
	})
	if err != nil {
		panic(err)
	}
	for _, c := range task.Calls {
		if moment, ok := c.Properties["moment"].(string); ok {
			c.Properties["moment"], _ = time.Parse(time.RFC3339, moment)
		}
		var message analytics.Message
		switch c.Type {
		case "track":
			message = analytics.Track{UserId: c.UserId, Event: c.Event, Properties: c.Properties}
		case "page":
			message = analytics.Page{UserId: c.UserId, Name: c.Name, Properties: c.Properties}
		case "screen":
			message = analytics.Screen{UserId: c.UserId, Name: c.Name, Properties: c.Properties}
		case "identify":
			message = analytics.Identify{UserId: c.UserId, Traits: c.Traits}
		case "group":
			message = analytics.Group{UserId: c.UserId, GroupId: c.GroupId, Traits: c.Traits}
		case "alias":
			message = analytics.Alias{UserId: c.UserId, PreviousId: c.PreviousId}
		}
		out.Add(1)
		if err := client.Enqueue(message); err != nil {
			panic(err)
		}
	}
	out.Wait()
	client.Close()
	json.NewEncoder(os.Stdout).Encode(out)
}
