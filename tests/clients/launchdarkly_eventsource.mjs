// Follows a stream with the npm package `launchdarkly-eventsource`, which reconnects by itself.
import { EventSource } from "launchdarkly-eventsource";

const [url, path] = process.argv.slice(2);
const source = new EventSource(url + path);
// The library's own `open` has no data, the stream's has.
source.addEventListener("open", (event) => event.data && console.log("open"));
source.onmessage = (event) => console.log(`record ${event.lastEventId} ${event.data}`);
// Without a listener it throws what it is about to mend.
source.onerror = () => {};

process.stdin.resume();
process.stdin.on("end", () => {
  source.close();
  process.exit(0);
});
