// `node run_page.js PAGE float32|uint8 OUTPUTS < inputs > outputs`: the script of a page, run outside of a browser.
//
// Inputs are the numbers of the samples, one after the other; so are the float32 numbers of all outputs, in the order of
// OUTPUTS, a list of names as JSON: keys such as "10" have another order in JavaScript.
"use strict";
const { readFileSync } = require("fs");
const { inflateSync } = require("zlib");

const [, , page, dtype, outputs] = process.argv;
const names = JSON.parse(outputs);
const text = readFileSync(page, "utf8");
const part = (id) => inflateSync(Buffer.from(text.match(new RegExp(`<script id="${id}"[^>]*>([^<]*)<`))[1], "base64"));
const openNet = new Function(`${part("engine")}\nreturn openNet;`)();

const net = openNet(new Uint8Array(part("net")));
const bytes = new Uint8Array(readFileSync(0));
const numbers = dtype === "float32" ? new Float32Array(bytes.buffer) : bytes;
const found = [];
for (let start = 0; start < numbers.length; start += net.count) {
  const sample = numbers.subarray(start, start + net.count);
  const made = net.run(sample);
  for (const name of names) found.push(new Uint8Array(made.get(name).buffer));
}
process.stdout.write(Buffer.concat(found));
