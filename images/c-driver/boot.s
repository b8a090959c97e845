/* From QEMU's PVH loader to guest_main: entered in 32-bit protected mode without paging, interrupts off, EBX the
   address of what the loader says. */

.set PRESENT_WRITABLE, 0x03
.set LARGE, 0x80
.set CR4_PAE, 0x20
.set EFER, 0xc0000080
.set EFER_LME, 0x100
.set CR0_PG, 0x80000000

/* An ELF note of the owner "Xen", type 18 (XEN_ELFNOTE_PHYS32_ENTRY), holds the entry's address. */
.section .note.pvh, "a", @note
.balign 4
        .long 4, 8, 18
        .asciz "Xen"
        .balign 4
        .quad start32

.section .text
.code32
.global start32
start32:
        cli
        cld
        movl %ebx, %esi
        movl $bss_start, %edi
        movl $bss_end, %ecx
        subl %edi, %ecx
        xorl %eax, %eax
        rep stosb

        /* Identity map of 4 GiB in pages of 2 MiB: memory, and every 32-bit BAR. Firmware has BARs be uncached. */
        movl $page_directories, %edi
        movl $(PRESENT_WRITABLE | LARGE), %eax
        movl $2048, %ecx
1:      movl %eax, (%edi)
        addl $0x200000, %eax
        addl $8, %edi
        decl %ecx
        jnz 1b
        movl $pointer_table, %edi
        movl $(page_directories + PRESENT_WRITABLE), %eax
        movl $4, %ecx
2:      movl %eax, (%edi)
        addl $4096, %eax
        addl $8, %edi
        decl %ecx
        jnz 2b
        movl $(pointer_table + PRESENT_WRITABLE), top_table

        movl %cr4, %eax
        orl $CR4_PAE, %eax
        movl %eax, %cr4
        movl $top_table, %eax
        movl %eax, %cr3
        movl $EFER, %ecx
        rdmsr
        orl $EFER_LME, %eax
        wrmsr
        movl %cr0, %eax
        orl $CR0_PG, %eax
        movl %eax, %cr0
        lgdt gdt_pointer
        ljmp $0x08, $start64

.code64
.cfi_sections .debug_frame
start64:
        /* The end of the chain of frames, for a debugger. */
        .cfi_startproc
        .cfi_undefined rip
        movw $0x10, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        movl $stack_top, %esp
        movl %esi, %edi
        xorl %ebp, %ebp
        call guest_main
3:      cli
        hlt
        jmp 3b
        .cfi_endproc

.section .rodata
.balign 8
gdt:
        .quad 0
        .quad 0x00af9b000000ffff        /* 0x08: 64-bit code */
        .quad 0x00cf93000000ffff        /* 0x10: data */
gdt_pointer:
        .word gdt_pointer - gdt - 1
        .long gdt

.section .bss
.balign 4096
top_table:
        .skip 4096
pointer_table:
        .skip 4096
page_directories:
        .skip 4 * 4096
        .skip 64 * 1024
stack_top:
.section .note.GNU-stack, "", @progbits
