// For benchmarks/language.py: each line of ids is a prompt; answers tokens per second of it and of its continuation.
import readline from "node:readline";
import {pathToFileURL} from "node:url";

const [folder, file, ...numbers] = process.argv.slice(2);
const [contextSize, threads, count] = numbers.map(Number);
const {getLlama} = await import(pathToFileURL(`${folder}/node_modules/node-llama-cpp/dist/index.js`));
const llama = await getLlama({gpu: false, build: "never", maxThreads: threads});
const model = await llama.loadModel({modelPath: file});
const sequence = (await model.createContext({contextSize, threads})).getSequence();
for await (const line of readline.createInterface({input: process.stdin})) {
    const ids = JSON.parse(line), times = [performance.now()];
    await sequence.clearHistory();
    for await (const _ of sequence.evaluate(ids, {temperature: 0, yieldEogToken: true})) {
        times.push(performance.now());
        if (times.length > count) break;
    }
    const speeds = [ids.length / (times[1] - times[0]), (count - 1) / (times[count] - times[1])];
    console.log(JSON.stringify(speeds.map((one) => 1000 * one)));
}
