// Follows a stream with the npm package `eventsource-client`, which reconnects by itself.
import { createEventSource } from "eventsource-client";

const [url, path] = process.argv.slice(2);
const source = createEventSource({
  url: url + path,
  onMessage: ({ event, id, data }) => {
    if (event === "open") {
      console.log("open");
    } else if (event === undefined || event === "message") {
      console.log(`record ${id} ${data}`);
    }
  },
});

process.stdin.resume();
process.stdin.on("end", () => {
  source.close();
  process.exit(0);
});
