// Follows a stream with the npm package `eventsource`, which reconnects by itself.
import { EventSource } from "eventsource";

const [url, path] = process.argv.slice(2);
const source = new EventSource(url + path);
source.addEventListener("open", (event) => event instanceof MessageEvent && console.log("open"));
source.onmessage = (event) => console.log(`record ${event.lastEventId} ${event.data}`);

process.stdin.resume();
process.stdin.on("end", () => {
  source.close();
  process.exit(0);
});
