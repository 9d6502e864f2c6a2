// The first script of a page: reads the style and the others, which are stored as zlib streams in base64, and starts them.

async function inflate(id) {
  const packed = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate")));
}

// `onebit.run(numbers of a sample)` gives a Map from the name of each output to its numbers, once `onebit.ready` is done
window.onebit = {};
onebit.ready = (async () => {
  for (const id of ["style", "engine", "page"]) {
    const part = document.createElement(id === "style" ? id : "script");
    part.id = `${id}-script`;
    part.textContent = await (await inflate(id)).text();
    document.head.append(part);
  }
  begin(new Uint8Array(await (await inflate("net")).arrayBuffer()));
})();
onebit.ready.catch((error) => (document.getElementById("answer").textContent = `This browser cannot run the page: ${error}`));
