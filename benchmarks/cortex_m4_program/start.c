/* The start of a program on a Cortex-M4 without an operating system. */
#include <stdint.h>

extern uint32_t stack_end, bss_begin, bss_end;
int main(void);
void start(void);

void start(void) {
    *(volatile uint32_t *)0xE000ED88 |= 0xfu << 20; /* switch the floating-point unit on */
    __asm__ volatile("dsb\nisb");
    for (volatile uint32_t *at = &bss_begin; at < &bss_end; at++) *at = 0;
    main();
    for (;;) {}
}

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {&stack_end, (const void *)start};
