/* Reads inputs as raw bytes (uint8, or float32 in little-endian order) and prints one line of outputs for each;
 * written by onebit. */
#include <stdio.h>

#ifdef _WIN32
#include <fcntl.h>
#include <io.h>
#endif

#include "net.h"

static net_input_t input[NET_INPUT_SIZE];
static net_output_t output[NET_OUTPUT_SIZE];
static uint8_t bytes[NET_INPUT_SIZE * sizeof(net_input_t)];

/* The numbers of an input from its bytes. */
static void decode(void) {
    for (long k = 0; k < NET_INPUT_SIZE; k++) {
#if NET_INPUT_IS_FLOAT
        const uint8_t *from = bytes + 4 * k;
        union {
            uint32_t bits;
            float value;
        } number = {from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24};
        input[k] = number.value;
#else
        input[k] = bytes[k];
#endif
    }
}

int main(void) {
    size_t got;
#ifdef _WIN32
    _setmode(_fileno(stdin), _O_BINARY); /* as text, byte 26 would end the inputs */
#endif
    while ((got = fread(bytes, 1, sizeof bytes, stdin)) == sizeof bytes) {
        decode();
        net_run(input, output);
        for (long k = 0; k < NET_OUTPUT_SIZE; k++) {
            const char *space = k ? " " : "";
#if NET_OUTPUT_IS_FLOAT
            printf("%s%.9g", space, (double)output[k]); /* 9 digits give every float back */
#else
            printf("%s%ld", space, (long)output[k]);
#endif
        }
        printf("\n");
    }
    if (got != 0) fprintf(stderr, "%lu bytes are left, an input has %lu\n", (unsigned long)got, (unsigned long)sizeof bytes);
    int unwritten = fflush(stdout) != 0 || ferror(stdout);
    if (unwritten) fprintf(stderr, "cannot write the outputs\n");
    return got != 0 || ferror(stdin) || unwritten;
}
