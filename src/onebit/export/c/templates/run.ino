// Runs the net on an empty input and prints its outputs; written by onebit.
#include <net.h>

static net_input_t input[NET_INPUT_SIZE];
static net_output_t output[NET_OUTPUT_SIZE];

void setup() { Serial.begin(115200); }

void loop() {
    unsigned long begin = micros();
    net_run(input, output);
    Serial.print(micros() - begin);
    Serial.print(" microseconds:");
    for (long k = 0; k < NET_OUTPUT_SIZE; k++) {
        Serial.print(' ');
        Serial.print(output[k]);
    }
    Serial.println();
    delay(1000);
}
