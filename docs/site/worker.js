// A page that was opened from a file may not start a worker: the script of the search runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(url) {
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.onload = () => {
        const inner = frame.contentWindow;
        const script = inner.document.createElement("script");
        inner.postMessage = (data) => setTimeout(() => this.onmessage?.({ data }));
        script.src = new URL(url, location.href).href;
        script.onload = () => {
          this.inner = inner;
          this.waiting.forEach((data) => this.postMessage(data));
        };
        inner.document.body.append(script);
      };
      this.frame = frame;
      this.waiting = [];
      document.documentElement.append(frame);
    }
    postMessage(data) {
      if (this.inner) setTimeout(() => this.inner.onmessage({ data: structuredClone(data) }));
      else this.waiting.push(data);
    }
    terminate() {
      this.frame.remove();
    }
  };
}
